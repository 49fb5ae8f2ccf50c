package dpkg

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// member is one file of an ar archive.
type member struct {
	name string
	data *io.SectionReader
}

const (
	arMagic  = "!<arch>\n"
	arHeader = 60
	// maxMembers bounds a deb's members; a plain one has three.
	maxMembers = 32
)

// readAr lists the members of the ar archive in the size bytes of r (ar(5),
// the common form without long names, as deb(5) asks for).
func readAr(r io.ReaderAt, size int64) ([]member, error) {
	head := make([]byte, arHeader)
	if _, err := r.ReadAt(head[:len(arMagic)], 0); err != nil || !bytes.HasPrefix(head, []byte(arMagic)) {
		return nil, errors.New("not a Debian package (no ar archive)")
	}
	var members []member
	for off := int64(len(arMagic)); off < size; {
		if len(members) == maxMembers {
			return nil, fmt.Errorf("more than %d members in the archive", maxMembers)
		}
		if off+arHeader > size {
			return nil, errors.New("archive is cut off")
		}
		if _, err := r.ReadAt(head, off); err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		if string(head[58:]) != "`\n" {
			return nil, fmt.Errorf("broken archive member header at byte %d", off)
		}
		length, err := strconv.ParseInt(strings.TrimRight(string(head[48:58]), " "), 10, 64)
		off += arHeader
		if err != nil || length < 0 {
			return nil, fmt.Errorf("broken size of the archive member at byte %d", off-arHeader)
		}
		if length > size-off {
			return nil, errors.New("archive is cut off")
		}
		name := strings.TrimSuffix(strings.TrimRight(string(head[:16]), " "), "/")
		members = append(members, member{name, io.NewSectionReader(r, off, length)})
		off += length + length&1
	}
	return members, nil
}
