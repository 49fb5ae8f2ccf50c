package dpkg

import (
	"archive/tar"
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"path"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// spoolName is the directory of files that are unpacked but not yet placed. It
// lies in the tree, because files are moved from it by rename.
const spoolName = ".ossify-dpkg"

// entry is one member of a data archive.
type entry struct {
	// name is absolute and clean.
	name string
	hdr  *tar.Header
	// spool is the file's path below the spool directory, for regular
	// files; empty if the file is left out.
	spool string
	// md5 is the file's sum in hex, where the database needs it.
	md5 string
}

// spooled is the content of one package; entries and err may be read when done
// is closed.
type spooled struct {
	pkg     *Package
	done    chan struct{}
	entries []entry
	err     error
}

// wait returns the entries of the package as soon as they are there.
func (s *spooled) wait(ctx context.Context) ([]entry, error) {
	select {
	case <-s.done:
		return s.entries, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// spool starts to unpack the packages, in their order and as many at a time as
// there are processors, into the directory dirfd. The returned function stops
// and waits; it must be called before the directory is removed.
func spool(ctx context.Context, dirfd int, packages []*Package, skip func(name string, dir bool) bool) (map[*Package]*spooled, func()) {
	ctx, cancel := context.WithCancel(ctx)
	all := make(map[*Package]*spooled, len(packages))
	queue := make(chan *spooled, len(packages))
	for _, p := range packages {
		s := &spooled{pkg: p, done: make(chan struct{})}
		all[p] = s
		queue <- s
	}
	close(queue)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			buf := make([]byte, 1<<20)
			for s := range queue {
				if s.err = ctx.Err(); s.err == nil {
					if s.entries, s.err = spoolPackage(ctx, dirfd, s.pkg, skip, buf); s.err != nil {
						s.err = fmt.Errorf("unpack package %s: %w", s.pkg.Name, s.err)
					}
				}
				close(s.done)
			}
		})
	}
	return all, func() {
		cancel()
		wg.Wait()
	}
}

func spoolPackage(ctx context.Context, dirfd int, p *Package, skip func(string, bool) bool, buf []byte) ([]entry, error) {
	if err := unix.Mkdirat(dirfd, p.Name, 0o700); err != nil {
		return nil, fmt.Errorf("make spool directory: %w", err)
	}
	sub, err := unix.Openat(dirfd, p.Name, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open spool directory: %w", err)
	}
	defer unix.Close(sub)
	r, err := decompress(p.data, runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	noSums := p.controlFile("md5sums") == nil
	var entries []entry
	for tr := tar.NewReader(r); ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", p.data.name, err)
		}
		e := entry{name: path.Clean("/" + hdr.Name), hdr: hdr}
		if hdr.Typeflag == tar.TypeReg && !skip(e.name, false) {
			base := strconv.Itoa(len(entries))
			e.spool = p.Name + "/" + base
			var sum hash.Hash
			if noSums || p.conffiles[e.name] {
				sum = md5.New()
			}
			if err := spoolFile(sub, base, hdr, tr, sum, buf); err != nil {
				return nil, fmt.Errorf("write %s: %w", e.name, err)
			}
			if sum != nil {
				e.md5 = hex.EncodeToString(sum.Sum(nil))
			}
		}
		entries = append(entries, e)
	}
}

// spoolFile writes a file with its owner, mode and time.
func spoolFile(dirfd int, name string, hdr *tar.Header, r io.Reader, sum hash.Hash, buf []byte) (err error) {
	fd, err := unix.Openat(dirfd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := unix.Close(fd); err == nil {
			err = closeErr
		}
	}()
	for left := hdr.Size; ; {
		n, readErr := io.ReadFull(r, buf)
		left -= int64(n)
		if sum != nil {
			sum.Write(buf[:n])
		}
		for rest := buf[:n]; len(rest) > 0; {
			w, err := unix.Write(fd, rest)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			rest = rest[w:]
		}
		if left == 0 {
			break
		}
		if readErr != nil {
			return readErr
		}
	}
	if hdr.Uid != 0 || hdr.Gid != 0 {
		if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
			return fmt.Errorf("set owner %d:%d: %w", hdr.Uid, hdr.Gid, err)
		}
	}
	if err := unix.Fchmod(fd, permissions(hdr)); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	times := timespecs(hdr.ModTime)
	return unix.UtimesNanoAt(dirfd, name, times[:], unix.AT_SYMLINK_NOFOLLOW)
}

// permissions returns the mode bits of a member, setuid, setgid and sticky
// among them.
func permissions(hdr *tar.Header) uint32 { return uint32(hdr.Mode) & 0o7777 }

// timespecs makes a time both access and modification time.
func timespecs(t time.Time) [2]unix.Timespec {
	ts := unix.NsecToTimespec(t.UnixNano())
	return [2]unix.Timespec{ts, ts}
}
