package guest

import "testing"

func TestStorageErrorsReturnsDamageAndFailedIO(t *testing.T) {
	log := "[ 1.0] EXT4-fs (loop0): mounted filesystem with ordered data mode.\n" +
		"[ 2.0] EXT4-fs error (device loop0): ext4_lookup:1: inode #2: comm ls: bad\n" +
		"[ 3.0] operation not supported error, dev loop0, sector 1 op 0x9:(WRITE_ZEROES)\n" +
		"[ 4.0] XFS (loop1): Corruption of in-memory data detected. Shutting down filesystem\n" +
		"[ 5.0] I/O error, dev loop2, sector 8 op 0x1:(WRITE)\n" +
		"[ 6.0] EXT4-fs (loop0): Remounting filesystem read-only\n"
	found := StorageErrors(log)
	if len(found) != 4 {
		t.Errorf("got %d lines, want 4: %q", len(found), found)
	}
}
