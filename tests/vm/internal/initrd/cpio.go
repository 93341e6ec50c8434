package initrd

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
)

// entry is one file of the archive.
type entry struct {
	name    string // without a leading slash
	mode    uint32 // type and permissions, as in stat(2)
	content []byte // of a file, or the target of a link
	major   uint32 // of a device node
	minor   uint32
}

// File types of stat(2).
const (
	typeMask = 0o170000
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
	typeChar = 0o020000
)

// writeArchive writes the entries in the format "newc" (kernel documentation,
// driver-api/early-userspace/buffer-format). Owners and times are 0 and inode
// numbers are counted, so that equal entries make equal archives.
func writeArchive(to io.Writer, entries []entry) error {
	w := bufio.NewWriterSize(to, 1<<20)
	for i, e := range append(entries, entry{name: "TRAILER!!!"}) {
		links := 1
		if e.mode&typeMask == typeDir {
			links = 2
		}
		// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor,
		// rdevminor, namesize, check
		_, err := fmt.Fprintf(w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			i+1, e.mode, 0, 0, links, 0, len(e.content), 0, 0, e.major, e.minor, len(e.name)+1, 0)
		if err != nil {
			return err
		}
		const header = 110
		if err := writePadded(w, append([]byte(e.name), 0), header); err != nil {
			return err
		}
		if err := writePadded(w, e.content, 0); err != nil {
			return err
		}
	}
	return w.Flush()
}

// writePadded writes data and then zeros, so that data and the bytes before it have a
// length that is a multiple of four.
func writePadded(w *bufio.Writer, data []byte, before int) error {
	if _, err := w.Write(data); err != nil {
		return err
	}
	_, err := w.Write(make([]byte, (4-(before+len(data))%4)%4))
	return err
}

// permissions returns the mode bits that the archive stores.
func permissions(m fs.FileMode) uint32 { return uint32(m.Perm()) }
