package volume

// uuidLength is that of a UUID in its usual form (RFC 9562, section 4).
const uuidLength = 36

// IsUUID tells whether text is a UUID in its usual form, in small or capital
// letters.
func IsUUID(text string) bool { return len(text) == uuidLength && IsUUIDPrefix(text) }

// IsUUIDPrefix tells whether text is a UUID or the beginning of one, as is all
// that some buses can show of a disk's serial.
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
