package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/kubeletwake"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/recording"
)

// recordingVariable is the environment variable with the file where the test stores what the
// terminal has shown, see `make recording`. The test types like a user then.
const recordingVariable = "GROWVOL_RECORDING"

// committedRecording is that file as the README shows it.
const committedRecording = "../recording/testdata/expand.cast"

// The commands that the recording shows.
const (
	commandStatus = "kubectl growvol status"
	commandExpand = "kubectl growvol expand database 2Gi"
)

// maxWoken is the longest time of a growth with the operator. kubelet alone needs more: it
// synchronizes the pod a minute after the pod has started, and the test begins sooner.
const maxWoken = 30 * time.Second

// A user grows a claim on a terminal, with growvol-operator and kubelet's default syncFrequency.
// The operator wakes kubelet, and no claim that is excluded.
func TestExpandOnATerminal(t *testing.T) {
	s := newNamespace(t)
	watch := s.stopwatch()
	s.installOperator(1)
	s.setSyncFrequency(defaultSyncFrequency)
	e := readExamples(s, "storageClassName: growvol", "storageClassName: "+classXFS,
		"spec:\n  containers:", "spec:\n  terminationGracePeriodSeconds: 1\n  containers:")
	s.apply(e.take("database.yaml"))
	s.awaitReady("database")
	wantSamePods := s.recordPods()
	watch("the pod runs")

	took := s.expandOnATerminal()
	watch("grown")
	if took > maxWoken {
		t.Errorf("the growth took %s, want %s at most", took, maxWoken)
	}
	t.Logf("kubelet's syncFrequency %s, with the operator: grown after %s", defaultSyncFrequency, took)
	s.wantAnnotation("database", fmt.Sprintf(`{"database":%d}`, 2*volume.GiB))
	s.wantEvent("PersistentVolumeClaim", "database", "KubeletWoken", "2 GiB", "pod database")
	s.wantDF("database", 2*volume.GiB)

	// The operator has passed over the excluded claim when it wakes kubelet for the other one.
	s.createClaim(claim{name: "excluded", class: classXFS, size: "1Gi"})
	s.kubectl("annotate", "pvc", "excluded", kubeletwake.AnnotationEnabled+"=false")
	s.startReader("reader", "excluded")
	s.requestSize("excluded", "2Gi")
	s.awaitField("pvc/excluded", "{.status.allocatedResourceStatuses.storage}", "NodeResizePending")
	s.requestSize("database", "3Gi")
	s.awaitExpanded("database", "3Gi")
	s.wantAnnotation("database", fmt.Sprintf(`{"database":%d}`, 3*volume.GiB))
	s.wantAnnotation("reader", "")
	s.kubectl("delete", "pod", "reader")
	wantSamePods()
	watch("checked")
}

func (s namespace) wantAnnotation(pod, want string) {
	s.Helper()
	if got := s.annotationOf(pod); got != want {
		s.Errorf("pod %s: got the operator's annotation %q, want %q", pod, got, want)
	}
}

// expandOnATerminal grows the claim database to 2 GiB on a terminal, and returns how long the
// growth took as the command says. With recordingVariable it also shows the claim before and after,
// and stores what the terminal has shown; otherwise it compares that with the recording.
func (s namespace) expandOnATerminal() (took time.Duration) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), waitTimeout)
	defer cancel()
	file, pause := os.Getenv(recordingVariable), time.Duration(0)
	if file != "" {
		pause = 45 * time.Millisecond
		s.awaitReading("960 MiB")
	}
	terminal := must.Value(recording.Start(ctx, 80, 24, s.shell()...))(s.T)
	run := func(command string) string {
		s.Helper()
		out := must.Value(terminal.Run(ctx, command, pause))(s.T)
		s.Logf("%s\n%s", command, out)
		return out
	}
	if file != "" {
		run(commandStatus)
	}
	out := run(commandExpand)
	if !regexp.MustCompile(`\r\x1b\[K +[\d.]+ s  \[#*-+\] `).MatchString(out) {
		s.Errorf("the terminal has shown no progress bar")
	}
	grown := regexp.MustCompile(`database has grown from 1 GiB to 2 GiB in ([\d.]+) s`).FindStringSubmatch(out)
	if grown == nil {
		s.Fatal("the command does not say that the claim has grown")
	}
	run("kubectl exec database -- df -h /data")
	if file != "" {
		s.awaitReading("1.9 GiB")
		run(commandStatus)
	}
	cast := must.Value(terminal.Close())(s.T)
	if file == "" {
		s.wantShownAsRecorded(must.Value(cast.Text())(s.T))
	} else {
		cast.MaxPause = 2 * time.Second
		f := must.Value(os.Create(file))(s.T) //nolint:gosec // the file that the user names
		must.Succeed(s.T, errors.Join(cast.Write(f), f.Close()))
	}
	return must.Value(time.ParseDuration(grown[1] + "s"))(s.T)
}

// shell returns the command of a shell in the cluster for which the namespace is the default one,
// and which finds the plugin. The script exec removes PS1.
func (s namespace) shell() []string {
	s.Helper()
	config := filepath.Join(s.TempDir(), "kubeconfig")
	must.Succeed(s.T, os.WriteFile(config, []byte(s.kubectl("config", "view", "--raw")), 0o600))
	s.kubectl("config", "set-context", "--current", "--namespace="+s.name, "--kubeconfig="+config)
	return []string{
		filepath.Join(moduleRoot(s.T), "tests", "kubernetes", "exec"),
		"sh", "-c", `PATH=$1:$PATH KUBECONFIG=$2 PS1=$3 exec sh +m -i`,
		"sh", filepath.Dir(s.must(buildPlugin())), config, recording.Prompt,
	}
}

// awaitReading waits until status shows a filesystem of the size.
func (s namespace) awaitReading(size string) {
	s.Helper()
	s.eventually(func(context.Context) error {
		_, out := s.growvol("status", "--no-headers")
		if !strings.Contains(out, " "+size+" ") {
			return fmt.Errorf("status shows no filesystem of %s", size)
		}
		return nil
	})
}

// wantShownAsRecorded fails the test unless the recording shows the same text from the command
// expand on, but for numbers, identifiers and stages: a stage that ends between two readings is not
// shown.
func (s namespace) wantShownAsRecorded(shown string) {
	s.Helper()
	f := must.Value(os.Open(committedRecording))(s.T)
	defer func() { _ = f.Close() }()
	cast := must.Value(recording.Read(f))(s.T)
	recorded := must.Value(cast.Text())(s.T)
	identifier := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|loop\d+|\d[\d.]*`)
	stage := regexp.MustCompile(`(?m)^ +[\d.]+ s  database: .*\n`)
	general := func(text string) string {
		_, text, _ = strings.Cut(text, recording.Prompt+commandExpand)
		text, _, _ = strings.Cut(text, recording.Prompt+commandStatus)
		lines := strings.Split(identifier.ReplaceAllString(stage.ReplaceAllString(text, ""), "N"), "\n")
		for i, line := range lines {
			lines[i] = strings.Join(strings.Fields(line), " ")
		}
		return strings.TrimSuffix(strings.Join(lines, "\n"), "$")
	}
	if got, want := general(shown), general(recorded); got != want {
		s.Errorf("the terminal shows another text than the recording of the README (next step: run `make recording`):\n"+
			"%s\nthe recording:\n%s", got, want)
	}
}
