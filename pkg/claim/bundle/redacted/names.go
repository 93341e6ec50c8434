package redacted

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// secretWords returns the parts of a name that stands before a secret, in lower case. This file
// says which names do.
func secretWords() []string {
	words := []string{
		"passw", "passphrase", "secret", "token", "credential", "authorization", "x-auth", "cookie", "signature", "keyring",
	}
	for _, whose := range []string{"api", "private", "access", "user", "admin", "encryption", "master"} {
		words = append(words, whose+"key", whose+"-key", whose+"_key")
	}
	return words
}

// isSecretName reports whether what stands behind the name may be a secret. Names of references to
// Secrets, and of settings of tokens, are not among them.
func (r *redactor) isSecretName(name string) bool {
	name = strings.ToLower(name)
	if !slices.ContainsFunc(r.words, func(word string) bool { return strings.Contains(name, word) }) {
		return false
	}
	plain := strings.NewReplacer("-", "", "_", "").Replace(name)
	return !slices.ContainsFunc([]string{
		"secretname", "secretnamespace", "automountserviceaccounttoken", "tokenexpirationseconds",
	}, func(end string) bool { return strings.HasSuffix(plain, end) })
}

// position is a part of a text.
type position struct{ start, end int }

// findNames returns where the text has names with one of the secret words, in their order.
func (r *redactor) findNames(text string) []position {
	lower := []byte(text)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	var names []position
	for _, word := range r.words {
		for at := 0; ; {
			i := bytes.Index(lower[at:], []byte(word))
			if i < 0 {
				break
			}
			name := widen(text, position{at + i, at + i + len(word)})
			names = append(names, name)
			at = name.end
		}
	}
	slices.SortFunc(names, func(a, b position) int { return cmp.Compare(a.start, b.start) })
	return slices.Compact(names)
}

// widen returns the whole name of which p is a part.
func widen(text string, p position) position {
	for p.start > 0 && isNameByte(text[p.start-1]) {
		p.start--
	}
	for p.end < len(text) && isNameByte(text[p.end]) {
		p.end++
	}
	return p
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '_' || c == '.' || c == '/' || c == '-'
}

// isReference reports whether the value of a field, which is an object or a list, refers to a
// Secret or says how a token is made.
func isReference(name string) bool {
	switch name {
	case "secret", "secrets", "imagePullSecrets", "serviceAccountToken", "tokenRequests":
		return true
	}
	return strings.HasSuffix(name, "secretRef") || strings.HasSuffix(name, "SecretRef") || name == "secretKeyRef"
}

// isReferenceField reports whether a field of a reference has no secret.
func isReferenceField(name string) bool {
	switch name {
	case "name", "namespace", "secretName", "key", "path", "items", "optional", "defaultMode", "mode", "audience",
		"expirationSeconds", "kind", "apiGroup":
		return true
	}
	return false
}

// isHeader reports whether the name is that of an HTTP header whose value may have spaces.
func isHeader(name string) bool {
	name = strings.ToLower(name)
	return strings.HasSuffix(name, "authorization") || strings.HasSuffix(name, "cookie")
}

// isKnownAnnotation reports whether the annotation is one of Kubernetes, of Helm, or of volumes. A
// user may write anything into others.
func isKnownAnnotation(name string) bool {
	domain, rest, _ := strings.Cut(name, "/")
	if strings.HasSuffix(rest, "last-applied-configuration") {
		return false
	}
	for _, known := range []string{"kubernetes.io", "k8s.io", "growvol.io", "topolvm.io", "helm.sh"} {
		if domain == known || strings.HasSuffix(domain, "."+known) {
			return true
		}
	}
	return false
}
