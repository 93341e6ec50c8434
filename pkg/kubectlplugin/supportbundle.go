package kubectlplugin

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/growvol/growvol/pkg/claim/bundle"
	"github.com/growvol/growvol/pkg/claim/bundle/redacted"
	"github.com/growvol/growvol/pkg/claim/doctor"
	"github.com/growvol/growvol/pkg/claim/reader"
	"github.com/growvol/growvol/pkg/claim/table"
	"github.com/growvol/growvol/pkg/volume"
)

// bundleExamples are the examples in the help of the command support-bundle. This file has the
// command.
const bundleExamples = `  # The installation, and all claims of the namespace
  kubectl growvol support-bundle

  # Two claims, with the logs of the last hour
  kubectl growvol support-bundle data-db-0 data-db-1 --since 1h -f bundle.tar.gz

  # What would be read; no request is sent
  kubectl growvol support-bundle -A --dry-run`

// bundleOptions are the flags of the command support-bundle.
type bundleOptions struct {
	file          string
	allNamespaces bool
	force, dryRun bool
	since         time.Duration
	logBytes      string
}

func (p *plugin) newBundleCommand() *cobra.Command {
	o := bundleOptions{}
	cmd := &cobra.Command{
		Use:   "support-bundle [CLAIM | sts/NAME]...",
		Short: "Write what a maintainer needs to help into one archive",
		Long: "support-bundle writes an archive with versions, the objects, logs and metrics of the driver, the claims\n" +
			"with what belongs to them, and the output of status and doctor. It reads no Secret and no ConfigMap, and\n" +
			"replaces secrets in what it reads by a mark. MANIFEST.txt in the archive lists the files and what could not\n" +
			"be read.\n\n" +
			"The exit code is 0 if the archive was written, also if something could not be read, otherwise 1.",
		Example:           bundleExamples,
		ValidArgsFunction: p.completeTargets,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.supportBundle(cmd.Context(), o, args) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.file, "file", "f", "", "the archive (default growvol-support-bundle-TIME.tar.gz)")
	flags.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "include the claims of all namespaces")
	flags.BoolVar(&o.force, "force", false, "replace the archive if it exists")
	flags.BoolVar(&o.dryRun, "dry-run", false, "list what would be read, and read nothing")
	flags.DurationVar(&o.since, "since", 24*time.Hour, "how old the lines of the logs may be")
	flags.StringVar(&o.logBytes, "log-size", "2Mi", "the largest size of each container's log; the last lines are kept")
	return cmd
}

func (p *plugin) supportBundle(ctx context.Context, o bundleOptions, args []string) error {
	if len(args) > 0 && o.allNamespaces {
		return errors.New("names cannot be combined with --all-namespaces")
	}
	size, err := resource.ParseQuantity(o.logBytes)
	if err != nil || size.Value() <= 0 || size.Value() > int64(volume.GiB) {
		return fmt.Errorf("--log-size=%s is not a size up to 1Gi (next step: write it as 2Mi)", o.logBytes)
	}
	if o.since <= 0 {
		return fmt.Errorf("--since=%s is not above 0 (next step: write it as 1h)", o.since)
	}
	collector := &bundle.Collector{
		Logs: bundle.Logs{Since: o.since, Bytes: volume.Size(size.Value())}, MadeAt: p.now(),
		Progress: func(text string) { p.errorf("reading %s\n", text) },
	}
	if o.dryRun {
		return p.planBundle(collector, o, args)
	}
	c, err := p.newClients()
	if err != nil {
		return err
	}
	r, namespace, err := p.newReader()
	if err != nil {
		return err
	}
	collector.API = c.bundle
	if collector.Claims, err = selectClaims(ctx, r, namespace, o, args); err != nil {
		return err
	}
	collector.Documents = p.bundleDocuments(c, r, collector.Claims)
	return p.writeBundle(ctx, collector, o)
}

// planBundle prints what would be read.
func (p *plugin) planBundle(collector *bundle.Collector, o bundleOptions, args []string) error {
	namespace, _, err := p.config.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return err
	}
	if !o.allNamespaces {
		collector.Claims = bundle.Selection{Namespace: namespace, Names: args}
	}
	collector.Documents = p.bundleDocuments(clients{}, nil, collector.Claims)
	p.printf("%s\n", "FILE: what is read for it. Of each answer, only what concerns the driver and the claims "+
		collector.Claims.String()+" is stored, without secrets.")
	for _, line := range collector.Plan() {
		p.printf("%s\n", line)
	}
	return nil
}

// selectClaims returns the selection of the arguments: the claims must exist.
func selectClaims(
	ctx context.Context, r *reader.Reader, namespace string, o bundleOptions, args []string,
) (bundle.Selection, error) {
	if o.allNamespaces {
		return bundle.Selection{}, nil
	}
	selection := bundle.Selection{Namespace: namespace}
	if len(args) == 0 {
		return selection, nil
	}
	claims, _, err := findClaims(ctx, r, namespace, "", args)
	if err != nil {
		return selection, err
	}
	for i := range claims {
		selection.Names = append(selection.Names, claims[i].Name)
	}
	if len(claims) == 0 {
		return selection, fmt.Errorf("%s has no claim in namespace %s", strings.Join(args, ", "), namespace)
	}
	return selection, nil
}

// bundleDocuments returns the files that are made of the output of this program.
func (p *plugin) bundleDocuments(c clients, r *reader.Reader, selection bundle.Selection) []bundle.Document {
	return []bundle.Document{
		{
			File: "plugin.json", What: "the version of kubectl growvol",
			Read: func(context.Context) (any, error) { return readBuild(), nil },
		},
		{
			File: "doctor.txt", What: "the output of kubectl growvol doctor",
			Read: func(ctx context.Context) (any, error) {
				d, err := doctor.New(c.kubernetes, c.nodes)
				if err != nil {
					return nil, err
				}
				var out bytes.Buffer
				err = table.PrintChecks(&out, checkRows(d.Check(ctx)), table.Options{})
				return out.String(), err
			},
		},
		{
			File: "claims/status.json", What: "the output of kubectl growvol status -o json",
			Read: func(ctx context.Context) (any, error) {
				claims, err := r.Claims(ctx, reader.Selection{Namespace: selection.Namespace})
				if err != nil {
					return nil, err
				}
				var selected []corev1.PersistentVolumeClaim
				for i := range claims {
					if selection.Has(claims[i].Name) {
						selected = append(selected, claims[i])
					}
				}
				return toList(r.Statuses(ctx, selected))
			},
		},
	}
}

// build is the version of the program.
type build struct {
	Version   string            `json:"version"`
	GoVersion string            `json:"goVersion"`
	Settings  map[string]string `json:"settings"` // such as the revision of the sources and the platform
}

func readBuild() build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return build{Version: "unknown"}
	}
	b := build{Version: cmp.Or(info.Main.Version, "devel"), GoVersion: info.GoVersion, Settings: map[string]string{}}
	for _, s := range info.Settings {
		if strings.HasPrefix(s.Key, "vcs") || s.Key == "GOOS" || s.Key == "GOARCH" {
			b.Settings[s.Key] = s.Value
		}
	}
	return b
}

// writeBundle collects the bundle and writes it to the file, which exists only if it is whole.
func (p *plugin) writeBundle(ctx context.Context, collector *bundle.Collector, o bundleOptions) error {
	name := "growvol-support-bundle-" + collector.MadeAt.UTC().Format("20060102T150405Z")
	path := cmp.Or(o.file, name+".tar.gz")
	file, err := createArchive(path, o.force)
	if err != nil {
		return err
	}
	unread, err := collectTo(ctx, file, name, collector)
	if err == nil && o.force {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("the bundle was not written: %w", err), os.Remove(file.Name()))
	}
	missing := 0
	for _, u := range unread {
		if !u.IsAbsent {
			missing++
			p.errorf("not read: %s\n", u)
		}
	}
	p.printf("%s is written: read it before you give it to anyone: tar -xzf %s\n", path, path)
	if missing > 0 {
		p.printf("%d things could not be read; %s/MANIFEST.txt lists them\n", missing, name)
	}
	return nil
}

// createArchive creates the file, readable for its owner only. With force it is a file beside path,
// which replaces path at the end.
func createArchive(path string, force bool) (*os.File, error) {
	if force {
		return os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".") // mode 0600
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists (next step: choose another name with -f, or replace it with --force)", path)
	}
	return file, err
}

// collectTo writes the bundle to the file, reads it back, and closes the file.
func collectTo(
	ctx context.Context, file *os.File, name string, collector *bundle.Collector,
) (unread []bundle.Unread, err error) {
	defer func() { err = errors.Join(err, file.Close()) }()
	archive := redacted.New(file, name, collector.MadeAt.UTC().Truncate(time.Second))
	if unread, err = collector.Collect(ctx, archive); err != nil {
		return nil, err
	}
	if err := errors.Join(archive.Close(), file.Sync()); err != nil {
		return nil, err
	}
	if _, err := file.Seek(0, 0); err != nil {
		return nil, err
	}
	return unread, redacted.Verify(file, name, archive.Files())
}
