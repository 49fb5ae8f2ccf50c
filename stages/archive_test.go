package stages

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// isArchive tells by its name whether a file is shown as a tar archive.
func isArchive(path string) bool {
	base := filepath.Base(path)
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst"} {
		if strings.HasSuffix(base, suffix) {
			return true
		}
	}
	return false
}

// writeArchive makes a tar archive of the lines, compressed as its name says.
func writeArchive(path, format string, lines []treeLine) (err error) {
	var out bytes.Buffer
	var packed io.WriteCloser
	switch filepath.Ext(path) {
	case ".gz", ".tgz":
		packed = gzip.NewWriter(&out)
	case ".xz", ".txz":
		packed, err = xz.NewWriter(&out)
	case ".zst":
		packed, err = zstd.NewWriter(&out)
	default:
		packed = nopCloser{&out}
	}
	if err != nil {
		return err
	}
	archive := tar.NewWriter(packed)
	for _, line := range lines {
		if err := writeMember(archive, format, line); err != nil {
			return fmt.Errorf("%s: %w", line.path, err)
		}
	}
	if err := errors.Join(archive.Close(), packed.Close()); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func writeMember(archive *tar.Writer, format string, line treeLine) error {
	formats := map[string]tar.Format{"gnu": tar.FormatGNU, "posix": tar.FormatPAX, "ustar": tar.FormatUSTAR}
	header := &tar.Header{Name: line.path, Mode: int64(line.mode), Uid: line.uid, Gid: line.gid,
		Format: formats[format], ModTime: time.Unix(max(line.mtime, 0), 0)}
	if header.Format == tar.FormatUnknown {
		return fmt.Errorf("format %q is none of gnu, posix, ustar", format)
	}
	var content string
	var err error
	switch line.kind {
	case "dir":
		header.Typeflag = tar.TypeDir
	case "link":
		header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, line.target, 0o777
	case "same":
		header.Typeflag, header.Linkname = tar.TypeLink, line.target
	case "file":
		header.Typeflag = tar.TypeReg
		if content, err = strconv.Unquote(line.content); err != nil {
			return err
		}
		header.Size = int64(len(content))
	case "char", "block":
		header.Typeflag = map[string]byte{"char": tar.TypeChar, "block": tar.TypeBlock}[line.kind]
		if _, err := fmt.Sscanf(line.content, "%d:%d", &header.Devmajor, &header.Devminor); err != nil {
			return fmt.Errorf("device %s: %w", line.content, err)
		}
	default:
		return fmt.Errorf("cannot pack a %q", line.kind)
	}
	for _, attr := range line.attrs {
		name, value, err := splitAttr(attr)
		if err != nil {
			return err
		}
		if header.PAXRecords == nil {
			header.PAXRecords = map[string]string{}
		}
		header.PAXRecords["SCHILY.xattr."+name] = value
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.WriteString(archive, content)
	return err
}

// readArchive returns the format and the members, in their order.
func readArchive(data []byte) (format string, lines []treeLine, err error) {
	reader, err := unpacked(data)
	if err != nil {
		return "", nil, err
	}
	archive := tar.NewReader(reader)
	format = "v7"
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return format, lines, nil
		}
		if err != nil {
			return "", nil, err
		}
		switch {
		case header.Format == tar.FormatPAX:
			format = "posix"
		case header.Format == tar.FormatGNU && format != "posix":
			format = "gnu"
		case header.Format == tar.FormatUSTAR && format == "v7":
			format = "ustar"
		}
		line, err := readMember(header, archive)
		if err != nil {
			return "", nil, err
		}
		lines = append(lines, line)
	}
}

func unpacked(data []byte) (io.Reader, error) {
	in := bytes.NewReader(data)
	switch {
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		return gzip.NewReader(in)
	case bytes.HasPrefix(data, []byte("\xfd7zXZ")):
		return xz.NewReader(in)
	case bytes.HasPrefix(data, []byte("\x28\xb5\x2f\xfd")):
		return zstd.NewReader(in)
	}
	return in, nil
}

func readMember(header *tar.Header, content io.Reader) (treeLine, error) {
	line := treeLine{path: header.Name, mode: uint32(header.Mode), uid: header.Uid, gid: header.Gid,
		target: header.Linkname, mtime: header.ModTime.Unix()}
	switch header.Typeflag {
	case tar.TypeDir:
		line.kind = "dir"
	case tar.TypeSymlink:
		line.kind = "link"
	case tar.TypeLink:
		line.kind = "same"
	case tar.TypeFifo:
		line.kind = "fifo"
	case tar.TypeChar, tar.TypeBlock:
		line.kind = map[byte]string{tar.TypeChar: "char", tar.TypeBlock: "block"}[header.Typeflag]
		line.content = fmt.Sprintf("%d:%d", header.Devmajor, header.Devminor)
	default:
		line.kind = "file"
		data, err := io.ReadAll(content)
		if err != nil {
			return line, err
		}
		line.content = showContent(data)
	}
	if header.Uname != "" || header.Gname != "" {
		line.attrs = append(line.attrs, fmt.Sprintf("(%s:%s)", header.Uname, header.Gname))
	}
	var records []string
	for key, value := range header.PAXRecords {
		switch key {
		case "path", "linkpath", "mtime", "size", "uid", "gid", "uname", "gname":
		default:
			records = append(records, strings.TrimPrefix(key, "SCHILY.xattr.")+"="+strconv.Quote(value))
		}
	}
	sort.Strings(records)
	line.attrs = append(line.attrs, records...)
	return line, nil
}

// writeDeb builds a package of the lines, which hold /DEBIAN/control.
func writeDeb(path string, lines []treeLine) error {
	dir, err := os.MkdirTemp("", "deb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, line := range lines {
		if err := line.place(filepath.Join(dir, line.path), filepath.Join(dir, line.target)); err != nil {
			return fmt.Errorf("%s: %w", line.path, err)
		}
	}
	cmd := exec.Command("dpkg-deb", "--build", dir, path)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
