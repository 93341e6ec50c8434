package volume

// uuidLength is the length in characters of a UUID in its usual form (RFC 9562, section 4).
const uuidLength = 36

// IsUUID reports whether text is a UUID in its usual form, in lower or upper case.
func IsUUID(text string) bool { return len(text) == uuidLength && IsUUIDPrefix(text) }

// IsUUIDPrefix reports whether text is a UUID or the beginning of one: some buses show only
// the first characters of a disk's serial.
func IsUUIDPrefix(text string) bool {
	if len(text) > uuidLength {
		return false
	}
	for i := range len(text) {
		c := text[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}
