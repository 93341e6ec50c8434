package deploy_test

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

const movePage = "docs/how-to/move-from-cinder-csi.md"

// rowsBelow returns the cells of the table below a heading, without its first two lines.
func rowsBelow(t *testing.T, page, heading string) [][]string {
	t.Helper()
	_, section, _ := strings.Cut(page, "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var rows [][]string
	for line := range strings.SplitSeq(section, "\n") {
		if strings.HasPrefix(line, "| ") {
			rows = append(rows, strings.Split(strings.Trim(line, "| "), " | "))
		}
	}
	if len(rows) < 3 {
		t.Fatalf("%s has no table below %s", movePage, heading)
	}
	return rows[1:]
}

// spans returns what is code in a cell.
func spans(cell string) []string {
	var all []string
	for i, span := range strings.Split(cell, "`") {
		if i%2 == 1 {
			all = append(all, span)
		}
	}
	return all
}

// set makes a sorted list without repetitions.
func set(names ...string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

// matches returns the first group of each match in a file.
func matches(t *testing.T, file, pattern string) []string {
	t.Helper()
	var all []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(content(t, filepath.Join(root(t), file))), -1) {
		all = append(all, m[1])
	}
	return all
}

// The page for people who come from cinder-csi-plugin has the keys of cloud.conf
// that the code reads, and as not read those that the code gives advice about.
func TestKeysOfCloudConfInTheMovePage(t *testing.T) {
	var read, other []string
	for _, row := range rowsBelow(t, string(content(t, filepath.Join(root(t), movePage))), "Keys of cloud.conf") {
		if keys := spans(row[1]); len(row) == 3 && strings.HasPrefix(row[2], "not read") {
			other = append(other, keys...)
		} else {
			read = append(read, keys...)
		}
	}
	inCode := matches(t, "pkg/cinder/internal/config/cloudconf.go", `gcfg:"([a-z-]+)"`)
	if !slices.Equal(set(read...), set(inCode...)) || len(inCode) < 30 {
		t.Errorf("read on the page %v\nin the code       %v", set(read...), set(inCode...))
	}
	_, advice, _ := strings.Cut(string(content(t, filepath.Join(root(t), "pkg/cinder/internal/config/ignored.go"))), "\nfunc confAdvice(")
	advice, _, _ = strings.Cut(advice, "\n}\n")
	var advised []string
	for line := range strings.SplitSeq(advice, "\n") {
		if list, found := strings.CutPrefix(line, "\tcase "); found {
			advised = append(advised, strings.Split(strings.Trim(list, `":`), `", "`)...)
		}
	}
	if !slices.Equal(set(other...), set(advised...)) || len(advised) < 5 {
		t.Errorf("not read on the page %v\nadvice in the code   %v", set(other...), set(advised...))
	}
}

// parametersInCode returns the parameters that the Cinder backend and the controller
// accept in a class, by the kind of class.
func parametersInCode(t *testing.T) map[string][]string {
	t.Helper()
	value := map[string]string{}
	for _, file := range []string{"pkg/cinder/internal/class/parameters.go", "pkg/cinder/internal/class/snapshot.go"} {
		for _, m := range regexp.MustCompile(`(?m)^\s+(?:const )?(Param\w+)\s+= "([^"]+)"`).FindAllStringSubmatch(string(content(t, filepath.Join(root(t), file))), -1) {
			value[m[1]] = m[2]
		}
		for _, m := range regexp.MustCompile(`(?m)^const (Param\w+) = "([^"]+)"`).FindAllStringSubmatch(string(content(t, filepath.Join(root(t), file))), -1) {
			value[m[1]] = m[2]
		}
	}
	secrets := matches(t, "pkg/controller/parameters.go", `"(csi[A-Za-z]+Secret[A-Za-z]+)"`)
	ofSnapshots := func(key string) bool { return strings.HasPrefix(key, "csiSnapshotter") }
	parameters := map[string][]string{
		"StorageClass":        append(matches(t, "pkg/controller/parameters.go", `fsTypeKey = "(\w+)"`), volume.EncryptedKey, volume.MkfsOptionsKey),
		"VolumeSnapshotClass": slices.DeleteFunc(slices.Clone(secrets), func(key string) bool { return !ofSnapshots(key) }),
	}
	parameters["StorageClass"] = append(parameters["StorageClass"], slices.DeleteFunc(secrets, ofSnapshots)...)
	for class, in := range map[string][2]string{
		"StorageClass":          {"pkg/cinder/internal/class/parameters.go", "func ParseStorage("},
		"VolumeSnapshotClass":   {"pkg/cinder/internal/class/snapshot.go", "func ParseSnapshot("},
		"VolumeAttributesClass": {"pkg/cinder/internal/class/parameters.go", "func ParseAttributes("},
	} {
		_, body, _ := strings.Cut(string(content(t, filepath.Join(root(t), in[0]))), in[1])
		body, _, _ = strings.Cut(body, "\n}\n")
		for _, m := range regexp.MustCompile(`case (?:key == )?(Param\w+)`).FindAllStringSubmatch(body, -1) {
			parameters[class] = append(parameters[class], value[m[1]])
		}
	}
	return parameters
}

// The page and the reference have the parameters of the code, and no others.
func TestParametersInTheMovePage(t *testing.T) {
	onPage := map[string][]string{}
	for _, row := range rowsBelow(t, string(content(t, filepath.Join(root(t), movePage))), "Parameters of classes") {
		if !strings.HasPrefix(row[2], "refused") {
			onPage[row[0]] = append(onPage[row[0]], spans(row[1])...)
		}
	}
	reference := string(content(t, filepath.Join(root(t), "docs/reference.md")))
	inCode := parametersInCode(t)
	for _, class := range slices.Sorted(maps.Keys(inCode)) {
		if page, code := set(onPage[class]...), set(inCode[class]...); !slices.Equal(page, code) || slices.Contains(code, "") || len(code) < 3 {
			t.Errorf("%s: on the page %v\nin the code %v", class, page, code)
		}
		for _, key := range inCode[class] {
			base := strings.TrimSuffix(key, "Namespace") + "Name"
			short := "`…/" + key[strings.LastIndex(key, "/")+1:] + "`"
			if !strings.Contains(reference, "`"+key+"`") && !strings.Contains(reference, "`"+base+"`") && !strings.Contains(reference, short) {
				t.Errorf("the reference lacks the parameter %s of %s", key, class)
			}
		}
	}
	if len(onPage) != len(inCode) {
		t.Errorf("classes on the page: %v", slices.Sorted(maps.Keys(onPage)))
	}
}
