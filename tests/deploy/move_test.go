package deploy_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

// movePage is the guide for users of cinder-csi-plugin.
const movePage = "docs/how-to/move-from-cinder-csi.md"

// tableRows returns the cells of the table below a heading of movePage, without the two rows of its
// header.
func tableRows(t *testing.T, page, heading string) [][]string {
	t.Helper()
	var rows [][]string
	for line := range strings.SplitSeq(sectionOf(page, heading), "\n") {
		if strings.HasPrefix(line, "| ") {
			rows = append(rows, strings.Split(strings.Trim(line, "| "), " | "))
		}
	}
	if len(rows) < 3 {
		t.Fatalf("%s: the section %s has %d rows, want a table", movePage, heading, len(rows))
	}
	return rows[1:]
}

// codeSpans returns the code in a cell.
func codeSpans(cell string) []string {
	var all []string
	for i, span := range strings.Split(cell, "`") {
		if i%2 == 1 {
			all = append(all, span)
		}
	}
	return all
}

// sortedSet returns the names in order and without duplicates.
func sortedSet(names ...string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

// firstGroups returns the first group of each match of a pattern in a file.
func firstGroups(t *testing.T, file, pattern string) []string {
	t.Helper()
	var all []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(readText(t, file), -1) {
		all = append(all, m[1])
	}
	return all
}

// TestKeysOfCloudConfInTheMovePage checks that the page has the keys of cloud.conf that the code
// reads, and, as keys that are not read, those for which the code has an advice.
func TestKeysOfCloudConfInTheMovePage(t *testing.T) {
	var read, other []string
	for _, row := range tableRows(t, readText(t, movePage), "Keys of cloud.conf") {
		if keys := codeSpans(row[1]); len(row) == 3 && strings.HasPrefix(row[2], "not read") {
			other = append(other, keys...)
		} else {
			read = append(read, keys...)
		}
	}
	const config, gcfgKey = "pkg/cinder/internal/config/", `gcfg:"([a-z-]+)"`
	var inCode []string
	for _, file := range []string{"cloudconf.go", "config.go", "credentials.go"} {
		inCode = append(inCode, firstGroups(t, config+file, gcfgKey)...)
	}
	if !slices.Equal(sortedSet(read...), sortedSet(inCode...)) || len(inCode) < 30 {
		t.Errorf("keys that are read: the page has\n%v\nbut the code has\n%v", sortedSet(read...), sortedSet(inCode...))
	}
	_, advice, _ := strings.Cut(readText(t, config+"ignored_keys.go"), "\nfunc confAdvice(")
	advice, _, _ = strings.Cut(advice, "\n}\n")
	var advised []string
	for line := range strings.SplitSeq(advice, "\n") {
		if list, found := strings.CutPrefix(line, "\tcase "); found {
			advised = append(advised, strings.Split(strings.Trim(list, `":`), `", "`)...)
		}
	}
	if !slices.Equal(sortedSet(other...), sortedSet(advised...)) || len(advised) < 5 {
		t.Errorf("keys that are not read: the page has\n%v\nbut the code has advice for\n%v",
			sortedSet(other...), sortedSet(advised...))
	}
}

// parametersInCode returns the parameters of classes that the Cinder backend and the controller
// accept, by the kind of class.
func parametersInCode(t *testing.T) map[string][]string {
	t.Helper()
	value := map[string]string{}
	definition := regexp.MustCompile(`(?m)^\s*(?:const )?(Param\w+)\s+= "([^"]+)"`)
	for _, file := range []string{"pkg/cinder/internal/class/parameters.go", "pkg/cinder/internal/class/snapshot.go"} {
		for _, m := range definition.FindAllStringSubmatch(readText(t, file), -1) {
			value[m[1]] = m[2]
		}
	}
	secrets := firstGroups(t, "pkg/controller/parameters.go", `"(csi[A-Za-z]+Secret[A-Za-z]+)"`)
	isOfSnapshots := func(key string) bool { return strings.HasPrefix(key, "csiSnapshotter") }
	parameters := map[string][]string{
		"StorageClass": append(firstGroups(t, "pkg/controller/parameters.go", `fsTypeKey = "(\w+)"`),
			volume.EncryptedKey, volume.MkfsOptionsKey),
		"VolumeSnapshotClass": slices.DeleteFunc(slices.Clone(secrets), func(key string) bool { return !isOfSnapshots(key) }),
	}
	parameters["StorageClass"] = append(parameters["StorageClass"], slices.DeleteFunc(secrets, isOfSnapshots)...)
	for class, function := range map[string][2]string{
		"StorageClass":          {"pkg/cinder/internal/class/parameters.go", "func ParseStorage("},
		"VolumeSnapshotClass":   {"pkg/cinder/internal/class/snapshot.go", "func ParseSnapshot("},
		"VolumeAttributesClass": {"pkg/cinder/internal/class/parameters.go", "func ParseAttributes("},
	} {
		_, body, _ := strings.Cut(readText(t, function[0]), function[1])
		body, _, _ = strings.Cut(body, "\n}\n")
		for _, m := range regexp.MustCompile(`case (?:key == )?(Param\w+)`).FindAllStringSubmatch(body, -1) {
			parameters[class] = append(parameters[class], value[m[1]])
		}
	}
	return parameters
}

// TestParametersInTheMovePage checks that the page and the reference have exactly the parameters of
// the code.
func TestParametersInTheMovePage(t *testing.T) {
	onPage := map[string][]string{}
	for _, row := range tableRows(t, readText(t, movePage), "Parameters of classes") {
		if !strings.HasPrefix(row[2], "refused") {
			onPage[row[0]] = append(onPage[row[0]], codeSpans(row[1])...)
		}
	}
	reference := readText(t, "docs/reference.md")
	inCode := parametersInCode(t)
	for _, class := range slices.Sorted(maps.Keys(inCode)) {
		page, code := sortedSet(onPage[class]...), sortedSet(inCode[class]...)
		if !slices.Equal(page, code) || slices.Contains(code, "") || len(code) < 3 {
			t.Errorf("%s: the page has\n%v\nbut the code has\n%v", class, page, code)
		}
		for _, key := range inCode[class] {
			forms := []string{
				"`" + key + "`",
				"`" + strings.TrimSuffix(key, "Namespace") + "Name`",
				"`…/" + key[strings.LastIndex(key, "/")+1:] + "`",
			}
			if !slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(reference, form) }) {
				t.Errorf("the reference does not have the parameter %s of %s", key, class)
			}
		}
	}
	if len(onPage) != len(inCode) {
		t.Errorf("got the classes %v on the page, want %v",
			slices.Sorted(maps.Keys(onPage)), slices.Sorted(maps.Keys(inCode)))
	}
}
