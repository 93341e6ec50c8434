package redacted

import (
	"regexp"
	"strings"
	"unicode"
)

// mark stands in place of what was removed. This file has the rules for texts.
const mark = "[redacted]"

// minRandomWord is the length above which a word of letters and digits without a pattern is
// removed: it may be a key of a kind that no rule knows.
const minRandomWord = 40

// redactor removes secrets, and counts the places.
type redactor struct {
	count             int
	words             []string
	shapes            []shape
	clouds, separator *regexp.Regexp
}

// shape is a secret that is known by its own form. replacement may refer to groups of the pattern.
type shape struct {
	pattern     *regexp.Regexp
	replacement string
}

func newRedactor() *redactor {
	r := &redactor{
		words: secretWords(),
		// A block of clouds.yaml: the lines below that have more indentation, or are empty.
		clouds: regexp.MustCompile(`(?m)^([ \t]*)clouds:[ \t]*\n(?:[ \t]*\n|[ \t]+\S.*(?:\n|\z))+`),
		// Between a name, which may be in quotes, and its value.
		separator: regexp.MustCompile(`^(?:\\*["']?\]?[ \t]*(?::=|=>|[:=])[ \t]*)`),
	}
	for _, s := range [][2]string{
		{`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`, mark},
		// URLs with a user, and with a password in which a slash is.
		{`(://)[^\s"'<>/?#@]*(?:@[^\s"'<>/?#@]*)*@`, "${1}" + mark + "@"},
		{`(://)[^\s"'/:@]*:[^\s"'@]*@`, "${1}" + mark + "@"},
		{`(?i)\b(bearer|basic)[ \t]+[A-Za-z0-9+/=._~-]{6,}`, "${1} " + mark},
		{`eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)*`, mark}, // JSON web tokens
		{`gAAAAA[A-Za-z0-9_=-]{20,}`, mark},                                    // tokens of Keystone
		{`A[QgwA][A-Za-z0-9+/]{34,80}={1,2}`, mark},                            // keys of Ceph
		{`\$(?:2[aby]|5|6|y|argon2id?)\$[A-Za-z0-9./$=,+]{20,}`, mark},         // hashes of passwords
	} {
		r.shapes = append(r.shapes, shape{regexp.MustCompile(s[0]), s[1]})
	}
	return r
}

// text returns the text without its secrets.
func (r *redactor) text(text string) string {
	text = r.removeClouds(text)
	for _, s := range r.shapes {
		text = s.pattern.ReplaceAllStringFunc(text, func(match string) string {
			if strings.Contains(match, mark) {
				return match
			}
			r.count++
			return s.pattern.ReplaceAllString(match, s.replacement)
		})
	}
	return r.removeValues(r.removeRandom(text))
}

// removeClouds removes the contents of clouds.yaml, which may have secrets under any name.
func (r *redactor) removeClouds(text string) string {
	return r.clouds.ReplaceAllStringFunc(text, func(block string) string {
		lines := strings.SplitAfter(block, "\n")
		indent := indentOf(lines[0])
		end := 1
		for end < len(lines) && (strings.TrimSpace(lines[end]) == "" || indentOf(lines[end]) > indent) {
			end++
		}
		r.count++
		return strings.TrimRight(lines[0], "\n") + " " + mark + "\n" + strings.Join(lines[end:], "")
	})
}

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " \t")) }

// removeRandom removes long words that look like a key.
func (r *redactor) removeRandom(text string) string {
	var b strings.Builder
	done := 0
	for i := 0; i < len(text); i++ {
		start := i
		for i < len(text) && isKeyByte(text[i]) {
			i++
		}
		if i-start >= minRandomWord && isRandom(text[start:i]) {
			b.WriteString(text[done:start] + mark)
			r.count++
			done = i
		}
	}
	b.WriteString(text[done:])
	return b.String()
}

// isKeyByte reports whether c is of base64, in one of its alphabets.
func isKeyByte(c byte) bool { return isNameByte(c) && c != '.' || c == '+' }

// isRandom reports whether a long word looks like a key: it has many letters of both cases and
// digits. Paths, UUIDs and digests do not.
func isRandom(word string) bool {
	var upper, lower, digits int
	for _, c := range word {
		switch {
		case unicode.IsUpper(c):
			upper++
		case unicode.IsLower(c):
			lower++
		case unicode.IsDigit(c):
			digits++
		}
	}
	return upper >= 5 && lower >= 5 && digits >= 3
}

// removeValues removes what stands behind the secret names: after a separator, or behind an option.
func (r *redactor) removeValues(text string) string {
	var b strings.Builder
	done := 0
	for _, found := range r.findNames(text) {
		name := text[found.start:found.end]
		start, hasValue := r.valueStart(text, found)
		if !hasValue {
			continue
		}
		isRemoved := found.start < done || strings.HasPrefix(strings.TrimLeft(text[start:], `\"'`), mark)
		if isRemoved || !r.isSecretName(name) {
			continue
		}
		end := valueEnd(text, found.start, start, name)
		switch strings.Trim(text[start:end], `\"', `) {
		case "", "true", "false", "null", "nil", "<nil>", "[", "{", "[]", "{}":
			continue
		}
		b.WriteString(text[done:start] + mark)
		r.count++
		done = end
	}
	b.WriteString(text[done:])
	return b.String()
}

// valueStart returns where the value behind the name begins.
func (r *redactor) valueStart(text string, name position) (start int, hasValue bool) {
	rest := text[name.end:]
	if separator := r.separator.FindString(rest); separator != "" {
		return name.end + len(separator), true
	}
	value := strings.TrimLeft(rest, " \t")
	isOption := strings.HasPrefix(text[name.start:name.end], "--")
	return len(text) - len(value), isOption && len(value) < len(rest)
}

// valueEnd returns where the value ends that begins at start. The name begins at nameStart.
func valueEnd(text string, nameStart, start int, name string) int {
	rest := text[start:]
	line, _, _ := strings.Cut(rest, "\n")
	lineStart := strings.LastIndex(text[:nameStart], "\n") + 1
	isFirst := strings.Trim(text[lineStart:nameStart], " \t-\"'") == ""
	switch {
	case strings.HasPrefix(line, "[") || strings.HasPrefix(line, "{"):
		if isHeader(name) { // as Go prints a header: map[Authorization:[…]]
			return start + len(line)
		}
		return start + closingBracket(line)
	case isBlockScalar(line):
		return start + len(line) + len(blockBelow(rest[len(line):], indentOf(text[lineStart:])))
	}
	if end, isQuoted := quotedEnd(line); isQuoted {
		return start + end
	}
	if quote := quoteBefore(text, nameStart); quote != "" && isHeader(name) {
		if end := strings.Index(line, quote); end >= 0 {
			return start + end
		}
	}
	if isHeader(name) || isFirst && strings.Contains(text[nameStart:start], ":") {
		return start + len(line)
	}
	if end := strings.IndexAny(line, " \t,;&)]}\"'`\\"); end >= 0 {
		return start + end
	}
	return start + len(line)
}

// quoteBefore returns the quote that stands before the position, with its backslashes.
func quoteBefore(text string, position int) string {
	before := strings.TrimRight(text[:position], `\"'`)
	return text[len(before):position]
}

// isBlockScalar reports whether a line of YAML says that the value is in the lines below.
func isBlockScalar(line string) bool {
	line = strings.TrimSpace(line)
	return strings.HasPrefix(line, "|") && len(line) <= 3 || strings.HasPrefix(line, ">") && len(line) <= 3
}

// blockBelow returns the lines that have more than the indentation. text begins with a line break.
func blockBelow(text string, indent int) string {
	end := 0
	for {
		line, _, _ := strings.Cut(text[min(end+1, len(text)):], "\n")
		if end >= len(text) || strings.TrimSpace(line) != "" && indentOf(line) <= indent {
			return text[:end]
		}
		end += 1 + len(line)
	}
}

// quotedEnd returns the end of a quoted text at the start of the line. The quotes may have
// backslashes, as in a text that is quoted itself; a quote with more backslashes is part of the
// text.
func quotedEnd(line string) (end int, isQuoted bool) {
	level := len(line) - len(strings.TrimLeft(line, `\`))
	if level == len(line) || line[level] != '"' && line[level] != '\'' {
		return 0, false
	}
	quote, backslashes := line[level], 0
	for i := level + 1; i < len(line); i++ {
		switch {
		case line[i] == '\\':
			backslashes++
			continue
		case line[i] == quote && backslashes <= level:
			return i + 1, true
		}
		backslashes = 0
	}
	return len(line), true
}

// closingBracket returns the end of a list or object at the start of the line, or that of the line.
func closingBracket(line string) int {
	depth := 0
	for i, c := range line {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(line)
}
