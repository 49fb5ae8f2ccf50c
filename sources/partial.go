package sources

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ossify/ossify/module"
	"golang.org/x/sys/unix"
)

// partial is a file that is being downloaded. It is locked: whoever downloads
// the same file at the same time, in this process or another, waits.
type partial struct {
	checksum checksum
	file     *os.File
	hash     hash.Hash
	// n bytes have been written and are in hash.
	n int64
	// gone is set when the file has left its place, where another may be.
	gone bool
}

// etagAttr keeps "URL\nETAG" of what was downloaded so far.
const etagAttr = "user.ossify.etag"

// openPartial opens and locks what there is of the file, or an empty file. The
// caller closes it.
func openPartial(dir string, c checksum) (_ *partial, err error) {
	path := filepath.Join(dir, c.text)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
		if err != nil {
			return nil, err
		}
		ours, err := lockAt(f, path)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !ours { // published or removed by the one we waited for
			f.Close()
			continue
		}
		p := &partial{checksum: c, file: f, hash: c.new()}
		if p.n, err = io.Copy(p.hash, f); err != nil {
			f.Close()
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		return p, nil
	}
}

// lockAt locks f and says whether it is still the file at path.
func lockAt(f *os.File, path string) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, err
		}
		mine, err := f.Stat()
		if err != nil {
			return false, err
		}
		there, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return err == nil && os.SameFile(mine, there), err
	}
}

// Write appends to the file.
func (p *partial) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	p.hash.Write(b[:n])
	p.n += int64(n)
	if err != nil {
		err = lasting{fmt.Errorf("write download: %w", err)}
	}
	return n, err
}

// restart throws away what there is.
func (p *partial) restart() error {
	p.hash.Reset()
	p.n = 0
	_, err := p.file.Seek(0, io.SeekStart)
	return errors.Join(err, p.file.Truncate(0))
}

// setETag remembers which version at which URL the file is of; a filesystem
// without attributes forgets it, and then the checksum alone tells.
func (p *partial) setETag(url, etag string) {
	if etag == "" || strings.HasPrefix(etag, "W/") { // weak ones do not mean the same bytes
		_ = unix.Fremovexattr(int(p.file.Fd()), etagAttr)
		return
	}
	_ = unix.Fsetxattr(int(p.file.Fd()), etagAttr, []byte(url+"\n"+etag), 0)
}

// etag returns the version if the file is of that URL, else "".
func (p *partial) etag(url string) string {
	buf := make([]byte, 4096)
	n, err := unix.Fgetxattr(int(p.file.Fd()), etagAttr, buf)
	if err != nil {
		return ""
	}
	from, etag, _ := strings.Cut(string(buf[:n]), "\n")
	if from != url {
		return ""
	}
	return etag
}

// publish makes the file, which has the right checksum, part of the cache.
func (p *partial) publish(d *module.Download) error {
	_ = unix.Fremovexattr(int(p.file.Fd()), etagAttr)
	if err := publish(d, p.checksum, p.file); err != nil {
		return err
	}
	p.gone = true
	return nil
}

// remove takes the file away; it stays open and locked.
func (p *partial) remove() error {
	p.gone = true
	return removeIfThere(p.file.Name())
}

// close unlocks the file. An empty one is of no use to anybody.
func (p *partial) close() error {
	var err error
	if p.n == 0 && !p.gone {
		err = p.remove()
	}
	return errors.Join(err, p.file.Close())
}

// partialAge is how long a partial file waits for somebody to go on with it.
const partialAge = 30 * 24 * time.Hour

// sweepPartials removes files that nobody has gone on with since then, and that
// nobody holds. What cannot be removed is left for the next time.
func sweepPartials(dir string, since time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || info.ModTime().After(since) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.Remove(path)
		}
		f.Close()
	}
	return nil
}
