package config

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"gopkg.in/gcfg.v1/scanner"
	"gopkg.in/gcfg.v1/token"
)

// confAdvice returns the replacement of a key of cinder-csi-plugin that is not read, or "".
func confAdvice(key string) string {
	switch key {
	case "node-volume-attach-limit":
		return " (use --max-volumes of growvol-node)"
	case "search-order":
		return " (use --node-id and --zone of growvol-node)"
	case "rescan-on-resize", "trust-device-path", "bs-version", "request-timeout":
		return " (not needed)"
	}
	return ""
}

// keysOf returns the keys of a struct's fields, which are their tags, with the types of the fields.
func keysOf(t reflect.Type, tag string) map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		keys[f.Tag.Get(tag)] = f.Type
	}
	return keys
}

// isKey reports whether name has the form of a key. Other text may be the rest of a value that has
// a line break in it, and must not stand in a message.
func isKey(name string) bool {
	return len(name) <= 48 && regexp.MustCompile(`^[a-z][a-z0-9]*([_-][a-z0-9]+)*$`).MatchString(name)
}

// confScanner walks through the text of a cloud.conf that gcfg has read, and collects the keys to
// warn of.
type confScanner struct {
	text    string
	file    *token.File
	scanner scanner.Scanner

	keys   map[string]reflect.Type // that are read of the section, in lower case
	isRead bool                    // cloudConf has the section
	label  string                  // "[Global] "

	ignored, cutKeys []string
}

// scanConf returns the sections and keys of a cloud.conf that cloudConf does not have, and the
// keys whose value ends at a comment that looks like a part of it.
func scanConf(text string) (ignored, cut []string) {
	set := token.NewFileSet()
	c := confScanner{text: text, file: set.AddFile("", set.Base(), len(text))}
	c.scanner.Init(c.file, []byte(text), nil, scanner.ScanComments)
	for {
		pos, tok, lit := c.scanner.Scan()
		if tok == token.EOF {
			return c.ignored, c.cutKeys
		}
		if tok == token.LBRACK {
			c.readHeader()
		}
		if tok == token.IDENT {
			c.readKey(lit, c.file.Line(pos))
		}
	}
}

// readHeader reads the rest of the line of a section.
func (c *confScanner) readHeader() {
	_, _, name := c.scanner.Scan()
	isNamed := func(field string) bool { return strings.EqualFold(field, name) }
	section, found := reflect.TypeFor[cloudConf]().FieldByNameFunc(isNamed)
	c.keys, c.isRead, c.label = nil, found, "["+name+"] "
	hasNames := found && section.Type.Kind() == reflect.Map // [Global "name"]
	if hasNames {
		c.keys = keysOf(section.Type.Elem().Elem(), "gcfg")
	} else if found {
		c.keys = keysOf(section.Type, "gcfg")
	}
	if _, tok, lit := c.scanner.Scan(); tok == token.STRING {
		c.isRead, c.label = hasNames, "["+name+" "+lit+"] "
	}
}

// readKey reads the rest of the line of a key.
func (c *confScanner) readKey(name string, line int) {
	key := strings.ToLower(name)
	_, isKnown := c.keys[key]
	_, tok, _ := c.scanner.Scan()
	value := ""
	if tok == token.ASSIGN {
		_, _, value = c.scanner.Scan()
	}
	at := c.label + key
	isRest := strings.Trim(value, "=") == "" // of base64, such as QUI=
	if tok != token.ASSIGN || !isKnown && (isRest || !isKey(name)) {
		at = fmt.Sprintf("%sline %d", c.label, line) // the name may be the rest of a value
	}
	if tok == token.ASSIGN {
		if pos, tok, _ := c.scanner.Scan(); tok == token.COMMENT && isCut(c.text, c.file.Offset(pos), value) {
			c.cutKeys = append(c.cutKeys, at)
		}
	}
	switch {
	case !c.isRead:
		c.ignored = append(c.ignored, sectionLabel(c.label, line))
	case !isKnown:
		c.ignored = append(c.ignored, at+confAdvice(key))
	}
}

// sectionLabel returns the name of a section that is not read, for a warning.
func sectionLabel(label string, line int) string {
	if regexp.MustCompile(`^\[[A-Za-z]{1,40}[] ]`).MatchString(label) {
		return strings.TrimSpace(label)
	}
	return fmt.Sprintf("the section of line %d", line)
}

// isCut reports whether the comment that begins at offset behind value looks like a part of the
// value: there is no blank before it, or the value is empty without it.
func isCut(text string, offset int, value string) bool {
	before, after := text[offset-1], strings.TrimLeft(text[offset:], ";#")
	if before != ' ' && before != '\t' {
		return true
	}
	return value == "" && after != "" && !strings.ContainsAny(after[:1], " \t\r\n")
}

// ignoredKeys returns the keys of a mapping that the struct t does not have, with those of the
// mappings in it. prefix stands before each.
func ignoredKeys(node *yaml.Node, t reflect.Type, prefix string) []string {
	var entries map[string]yaml.Node
	if node.Decode(&entries) != nil {
		return nil // the error is reported where the value is read
	}
	known := keysOf(t, "yaml")
	var ignored []string
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		value := entries[key]
		field, found := known[key]
		switch {
		case !found && isUsedVersion(key, value.Value):
		case !found && isKey(key) && (value.Value != "" || len(value.Content) > 0):
			ignored = append(ignored, prefix+key)
		case !found: // such as the part behind the comma in {password: a,b}
			ignored = append(ignored, fmt.Sprintf("%sline %d", prefix, value.Line))
		case field.Kind() == reflect.Struct:
			ignored = append(ignored, ignoredKeys(&value, field, prefix+key+".")...)
		case field.Kind() == reflect.Slice && field.Elem().Kind() == reflect.Struct:
			for _, item := range value.Content {
				ignored = append(ignored, ignoredKeys(item, field.Elem(), prefix+key+".")...)
			}
		}
	}
	return ignored
}

// isUsedVersion reports whether a key asks for the version of an API that is used anyway: no other
// version is.
func isUsedVersion(key, value string) bool {
	value = strings.TrimPrefix(value, "v")
	switch key {
	case "identity_api_version", "volume_api_version", "volumev3_api_version", "block_storage_api_version":
		return value == "3" || value == "3.0"
	case "compute_api_version":
		return value == "2" || value == "2.0" || value == "2.1"
	}
	return false
}
