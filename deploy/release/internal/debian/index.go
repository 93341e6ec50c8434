package debian

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// Suite is a part of the distribution with an index of its own.
type Suite struct {
	Archive string // directory on the mirror: debian or debian-security
	Name    string // such as bookworm
}

// Request is a set of packages for images.
type Request struct {
	Set      string
	Packages []string
	// Alone leaves out what the packages depend on.
	Alone bool
}

// Resolver finds the newest packages of the suites, and what they depend on.
type Resolver struct {
	Mirror  Mirror
	Suites  []Suite
	Keyring string // of Debian's archive keys, for gpgv
	// Unneeded are packages that only the scripts of other packages run.
	Unneeded []string
}

// candidate is a package of the index.
type candidate struct {
	name, version, sha256, path string
	depends                     []string // each with its alternatives
}

// Resolve returns the packages of the requests for the architectures. dates has a line for each
// suite with the date of its index, whose signature is verified.
func (r Resolver) Resolve(
	ctx context.Context, requests []Request, archs []string,
) (lock Lock, dates []string, err error) {
	indexes := map[string]map[string]candidate{}
	for _, arch := range archs {
		indexes[arch] = map[string]candidate{}
	}
	for _, suite := range r.Suites {
		release, err := r.release(ctx, suite)
		if err != nil {
			return nil, nil, fmt.Errorf("read the index of %s: %w", suite.Name, err)
		}
		dates = append(dates, fmt.Sprintf("%s/%s: %s", suite.Archive, suite.Name, release.date))
		for _, arch := range archs {
			if err := r.addIndex(ctx, suite, release, arch, indexes[arch]); err != nil {
				return nil, nil, fmt.Errorf("read the index of %s for %s: %w", suite.Name, arch, err)
			}
		}
	}
	for _, request := range requests {
		for _, arch := range archs {
			packages, err := r.lockSet(indexes[arch], request, arch)
			if err != nil {
				return nil, nil, fmt.Errorf("packages of %s for %s: %w", request.Set, arch, err)
			}
			lock = append(lock, packages...)
		}
	}
	return lock, dates, nil
}

// lockSet returns the packages of a request for an architecture.
func (r Resolver) lockSet(index map[string]candidate, request Request, arch string) (Lock, error) {
	selected, err := r.closure(index, request)
	if err != nil {
		return nil, err
	}
	var lock Lock
	for _, c := range selected {
		lock = append(lock, Package{
			Set: request.Set, Arch: arch, Name: c.name, Version: c.version, SHA256: c.sha256, Path: c.path,
		})
	}
	return lock, nil
}

// release is the signed list of the files of a suite.
type release struct {
	date string
	sums map[string]string // SHA-256 by the file's name
}

// release downloads the list of a suite and verifies its signature and its validity.
func (r Resolver) release(ctx context.Context, suite Suite) (release, error) {
	signed, err := r.Mirror.get(ctx, path.Join(suite.Archive, "dists", suite.Name, "InRelease"))
	if err != nil {
		return release{}, err
	}
	gpgv := exec.CommandContext(ctx, "gpgv", "--quiet", "--keyring", r.Keyring, "--output", "-")
	gpgv.Stdin = bytes.NewReader(signed)
	var problem bytes.Buffer
	gpgv.Stderr = &problem
	text, err := gpgv.Output()
	if err != nil {
		return release{}, fmt.Errorf("gpgv does not accept the signature: %w: %s", err, problem.String())
	}
	result := release{sums: map[string]string{}}
	isSum := false
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ":")
		fields := strings.Fields(line)
		switch {
		case !strings.HasPrefix(line, " "):
			isSum = key == "SHA256"
			value = strings.TrimSpace(value)
			if key == "Date" {
				result.date = value
			}
			if key == "Valid-Until" {
				if err := checkNotExpired(value); err != nil {
					return release{}, err
				}
			}
		case isSum && len(fields) == 3:
			result.sums[fields[2]] = fields[0]
		}
	}
	return result, nil
}

// checkNotExpired fails if the time of Valid-Until has passed: a mirror may serve an old index.
func checkNotExpired(text string) error {
	until, err := time.Parse(time.RFC1123, text)
	if err != nil {
		return fmt.Errorf("cannot read Valid-Until: %w", err)
	}
	if time.Now().After(until) {
		return fmt.Errorf("the index is valid until %s only (next step: use another mirror)", text)
	}
	return nil
}

// addIndex downloads and verifies the index of an architecture, and adds its packages. Of two
// versions the newer one remains.
func (r Resolver) addIndex(ctx context.Context, s Suite, list release, arch string, to map[string]candidate) error {
	name := "main/binary-" + arch + "/Packages.xz"
	packed, err := r.Mirror.get(ctx, path.Join(s.Archive, "dists", s.Name, name))
	if err != nil {
		return err
	}
	if got, want := checksum(packed), list.sums[name]; got != want {
		return fmt.Errorf("%s has the SHA-256 %s, the signed list says %q", name, got, want)
	}
	unpack := exec.CommandContext(ctx, "xz", "--decompress", "--stdout")
	unpack.Stdin = bytes.NewReader(packed)
	text, err := unpack.Output()
	if err != nil {
		return fmt.Errorf("xz: %w", err)
	}
	for paragraph := range strings.SplitSeq(string(text), "\n\n") {
		c := parseParagraph(paragraph)
		c.path = path.Join(s.Archive, c.path)
		old, exists := to[c.name]
		if c.name == "" {
			continue
		}
		if exists {
			newer, err := isNewer(ctx, c.version, old.version)
			if err != nil {
				return err
			}
			if !newer {
				continue
			}
		}
		to[c.name] = c
	}
	return nil
}

// isNewer reports whether version a of a package is newer than b, as dpkg compares them.
func isNewer(ctx context.Context, a, b string) (bool, error) {
	err := exec.CommandContext(ctx, "dpkg", "--compare-versions", a, "gt", b).Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == 1 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compare the versions %s and %s: %w", a, b, err)
	}
	return true, nil
}

// parseParagraph reads the fields of one package in an index.
func parseParagraph(text string) candidate {
	var c candidate
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ": ")
		switch key {
		case "Package":
			c.name = value
		case "Version":
			c.version = value
		case "SHA256":
			c.sha256 = value
		case "Filename":
			c.path = value
		case "Depends", "Pre-Depends":
			c.depends = append(c.depends, strings.Split(value, ",")...)
		}
	}
	return c
}

// closure returns the packages of a request and all that they depend on, sorted by name. Of
// alternatives it takes the first that the index has.
func (r Resolver) closure(index map[string]candidate, request Request) ([]candidate, error) {
	selected := map[string]candidate{}
	for open := slices.Clone(request.Packages); len(open) > 0; open = open[1:] {
		c, ok := index[open[0]]
		if !ok {
			return nil, fmt.Errorf("the index has no package %s", open[0])
		}
		if _, done := selected[c.name]; done {
			continue
		}
		selected[c.name] = c
		if request.Alone {
			continue
		}
		for _, dependency := range c.depends {
			name, err := r.choose(index, dependency)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if name != "" {
				open = append(open, name)
			}
		}
	}
	var list []candidate
	for _, c := range selected {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b candidate) int { return cmp.Compare(a.name, b.name) })
	return list, nil
}

// choose returns the name of the package for a dependency such as "debconf (>= 0.5) | debconf-2.0",
// or nothing if it is not needed.
func (r Resolver) choose(index map[string]candidate, dependency string) (string, error) {
	var found string
	for alternative := range strings.SplitSeq(dependency, "|") {
		name, _, _ := strings.Cut(strings.TrimSpace(alternative), " ")
		name, _, _ = strings.Cut(name, ":")
		if slices.Contains(r.Unneeded, name) {
			return "", nil
		}
		if _, ok := index[name]; ok && found == "" {
			found = name
		}
	}
	if found == "" {
		return "", fmt.Errorf("the index has no package for the dependency %s", strings.TrimSpace(dependency))
	}
	return found, nil
}
