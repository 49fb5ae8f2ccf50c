package record

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Keywords under which archives hold SELinux contexts, as pax records.
const (
	// TarSELinux is that of tar --selinux; the context has no NUL.
	TarSELinux = "RHT.security.selinux"
	// TarXattr is that of tar --xattrs; the value is that of the attribute.
	TarXattr = "SCHILY.xattr.security.selinux"
)

const (
	tarBlock = 512
	// maxPax is the largest extended header of a member, in bytes.
	maxPax = 8 << 20
)

// TarOptions say what CompleteTar adds.
type TarOptions struct {
	// Keywords are those for contexts; Label returns that of the member with that
	// number and name, "" for none.
	Keywords []string
	Label    func(n int, name string) string
	// Devices are members to add, by name; Epoch is their time, in seconds since
	// 1970.
	Devices map[string]Device
	Epoch   int64
}

// CompleteTar copies an archive of the pax or ustar format from src to dst and
// adds what of a side record belongs there. All else stays as it is, byte for
// byte, which the standard library's package cannot do: it does not write sparse
// files.
func CompleteTar(dst io.Writer, src io.Reader, options TarOptions) error {
	l := tarLabeler{dst: dst, src: src, options: options}
	for {
		done, err := l.next()
		if err != nil {
			return fmt.Errorf("complete archive: %w", err)
		}
		if done {
			return nil
		}
	}
}

type tarLabeler struct {
	dst     io.Writer
	src     io.Reader
	options TarOptions
	count   int
	// header and records are the extended header before the next member.
	header, records []byte
	end             bool
}

// next copies one header with its content.
func (l *tarLabeler) next() (done bool, err error) {
	block := make([]byte, tarBlock)
	if _, err := io.ReadFull(l.src, block); errors.Is(err, io.EOF) && l.end {
		return true, nil
	} else if err != nil {
		return false, err
	}
	if len(bytes.TrimLeft(block, "\x00")) == 0 { // the end, and what fills the last record
		if !l.end {
			l.end = true
			if err := l.addDevices(); err != nil {
				return false, err
			}
		}
		_, err := l.dst.Write(block)
		return false, err
	}
	size, err := tarNumber(block[124:136])
	if err != nil {
		return false, err
	}
	switch block[156] {
	case tar.TypeXHeader:
		return false, l.keep(block, size)
	case tar.TypeXGlobalHeader:
		return false, l.copy(block, size)
	case tar.TypeGNULongName, tar.TypeGNULongLink:
		return false, errors.New("it is in the format gnu; contexts need the format posix")
	}
	return false, l.member(block, size)
}

// keep remembers an extended header for the member after it.
func (l *tarLabeler) keep(block []byte, size int64) error {
	if size > maxPax || l.header != nil {
		return fmt.Errorf("an extended header of %d bytes, or two of them", size)
	}
	padded := make([]byte, (size+tarBlock-1)/tarBlock*tarBlock)
	if _, err := io.ReadFull(l.src, padded); err != nil {
		return err
	}
	l.header, l.records = block, padded[:size]
	return nil
}

// member copies a member, with its context in the extended header.
func (l *tarLabeler) member(block []byte, size int64) error {
	name := tarString(block[0:100])
	if prefix := tarString(block[345:500]); prefix != "" && bytes.Equal(block[257:263], []byte("ustar\x00")) {
		name = prefix + "/" + name
	}
	for _, key := range []string{"path", "GNU.sparse.name"} {
		if value, ok := paxValue(l.records, key); ok {
			name = value
		}
	}
	if value, ok := paxValue(l.records, "size"); ok {
		var err error
		if size, err = strconv.ParseInt(value, 10, 64); err != nil {
			return fmt.Errorf("size of %q: %w", name, err)
		}
	}
	context := l.options.Label(l.count, name)
	l.count++
	if context != "" {
		for _, keyword := range l.options.Keywords {
			l.records = append(l.records, paxRecord(keyword, tarValue(keyword, context))...)
		}
		if l.header == nil && len(l.options.Keywords) > 0 {
			l.header = paxHeader(block, name)
		}
	}
	if l.header != nil {
		header, records := l.header, l.records
		l.header, l.records = nil, nil
		copy(header[124:136], fmt.Sprintf("%011o\x00", len(records)))
		tarChecksum(header)
		padding := make([]byte, (tarBlock-len(records)%tarBlock)%tarBlock)
		if _, err := l.dst.Write(bytes.Join([][]byte{header, records, padding}, nil)); err != nil {
			return err
		}
	}
	return l.copy(block, size)
}

// tarValue is a context as it is stored under the keyword.
func tarValue(keyword, context string) string {
	if keyword == TarXattr {
		return context + "\x00"
	}
	return context
}

// addDevices writes the members that src has not got.
func (l *tarLabeler) addDevices() error {
	w := tar.NewWriter(l.dst)
	for _, name := range slices.Sorted(maps.Keys(l.options.Devices)) {
		d := l.options.Devices[name]
		header := &tar.Header{
			Name: name, Typeflag: tar.TypeChar, Mode: int64(d.Mode), Uid: int(d.UID), Gid: int(d.GID),
			Devmajor: int64(d.Major), Devminor: int64(d.Minor), ModTime: time.Unix(l.options.Epoch, 0),
		}
		if d.Kind == 'b' {
			header.Typeflag = tar.TypeBlock
		}
		if context := l.options.Label(l.count, name); context != "" {
			header.PAXRecords = map[string]string{}
			for _, keyword := range l.options.Keywords {
				header.PAXRecords[keyword] = tarValue(keyword, context)
			}
		}
		l.count++
		if err := w.WriteHeader(header); err != nil {
			return err
		}
	}
	return w.Flush()
}

// copy copies a header and its content.
func (l *tarLabeler) copy(block []byte, size int64) error {
	if _, err := l.dst.Write(block); err != nil {
		return err
	}
	switch block[156] {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return nil // whatever their size says, as the standard library has it
	}
	_, err := io.CopyN(l.dst, l.src, (size+tarBlock-1)/tarBlock*tarBlock)
	return err
}

// paxHeader makes the block before the extended header of a member.
func paxHeader(member []byte, name string) []byte {
	block := make([]byte, tarBlock)
	dir, base := path.Split(path.Clean(name))
	short := path.Join(dir, "PaxHeaders", base)
	copy(block[0:100], short[:min(len(short), 99)])
	copy(block[100:], "0000644\x000000000\x000000000\x00")
	copy(block[136:148], member[136:148]) // the member's time
	block[156] = tar.TypeXHeader
	copy(block[257:], "ustar\x0000")
	return block
}

// tarChecksum writes the sum over the header, in which it counts as spaces.
func tarChecksum(block []byte) {
	copy(block[148:156], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// paxRecord is "LENGTH KEY=VALUE\n", with the length of all of it.
func paxRecord(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	length := len(rest)
	for length != len(rest)+len(strconv.Itoa(length)) {
		length = len(rest) + len(strconv.Itoa(length))
	}
	return strconv.Itoa(length) + rest
}

// paxValue finds the last record of that key.
func paxValue(records []byte, key string) (value string, ok bool) {
	for len(records) > 0 {
		number, _, found := bytes.Cut(records, []byte(" "))
		length, err := strconv.Atoi(string(number))
		if !found || err != nil || length <= len(number)+1 || length > len(records) {
			return value, ok
		}
		record := string(records[len(number)+1 : length-1])
		if k, v, found := strings.Cut(record, "="); found && k == key {
			value, ok = v, true
		}
		records = records[length:]
	}
	return value, ok
}

func tarString(field []byte) string {
	text, _, _ := bytes.Cut(field, []byte{0})
	return string(text)
}

// tarNumber reads a size: octal, or base 256 behind a set first bit.
func tarNumber(field []byte) (int64, error) {
	if field[0]&0x80 != 0 {
		n := int64(0)
		for i, b := range field {
			if i == 0 {
				b &= 0x7f
			}
			if n > 1<<54 {
				return 0, errors.New("a size is too large")
			}
			n = n<<8 | int64(b)
		}
		return n, nil
	}
	n, err := strconv.ParseInt(strings.Trim(tarString(field), " "), 8, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is no size; this is no archive", field)
	}
	return n, nil
}
