package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ossify/ossify/overlay"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// sumsName is the file beside a checkpoint's content that says what it holds: the sums of package
// overlay, a line with sealed as JSON, and one with the sha256 of all that.
const sumsName = "ossify-sums"

// sealed is what was stored of a checkpoint when it got its name.
type sealed struct {
	// Layer is the record that containers/storage has of it.
	Layer storage.Layer `json:"layer"`
	// Data are the sha256 of what is stored beside it.
	Data map[string]string `json:"data,omitempty"`
}

func (s *Store) overlayDir() string { return filepath.Join(graphRoot(s.dir), "overlay") }

// writeSums writes the file of a layer that is about to get its name.
func (s *Store) writeSums(l *Layer, name string, data map[string][]byte) (err error) {
	layer, err := s.storage.Layer(l.ID)
	if err != nil {
		return err
	}
	upper, err := s.Upper(l)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.overlayDir(), l.ID, sumsName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	both := io.MultiWriter(f, hash)
	if err := overlay.WriteSums(upper, both); err != nil {
		return err
	}
	end := sealed{Layer: *layer, Data: map[string]string{}}
	end.Layer.Names = []string{name}
	for key, value := range data {
		end.Data[key] = digestOf(value)
	}
	if err := json.NewEncoder(both).Encode(end); err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, hex.EncodeToString(hash.Sum(nil)))
	return err
}

// driverFiles are those of containers/storage's driver beside a layer's content, which it does not bring
// to the disk.
var driverFiles = []string{"link", "lower", "lower-layers"}

// settle sees that what lies beside a layer's content is on the disk when its name is. A journal is
// written in order, so what brings the name to the disk, containers/storage's sync of its
// layers.json, takes along all names and sizes of before; only the bytes have to be written out.
// btrfs has no such order.
func (s *Store) settle(id string) error {
	dir := filepath.Join(s.overlayDir(), id)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Type == unix.BTRFS_SUPER_MAGIC {
		return overlay.SyncFilesystem(dir)
	}
	for _, name := range append([]string{sumsName}, driverFiles...) {
		if err := writeOut(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writeOut waits until a file's bytes are written.
func writeOut(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	for {
		err := unix.SyncFileRange(int(f.Fd()), 0, 0, all)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "write out", Path: path, Err: err}
		}
		return nil
	}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// errNoSums says that a checkpoint is of a version that wrote none, or they were lost.
var errNoSums = errors.New("it has no sums")

// readSums reads the file of a layer; the error is errNoSums if there is none.
func readSums(layerDir string) (lines []byte, end *sealed, err error) {
	data, err := os.ReadFile(filepath.Join(layerDir, sumsName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		return nil, nil, errNoSums
	}
	if err != nil {
		return nil, nil, err
	}
	all, sum := lastLine(data)
	if digestOf(all) != string(bytes.TrimSuffix(sum, []byte{'\n'})) {
		return nil, nil, errors.New("its sums have changed")
	}
	lines, record := lastLine(all)
	end = &sealed{}
	if err := json.Unmarshal(record, end); err != nil {
		return nil, nil, fmt.Errorf("its sums cannot be read: %w", err)
	}
	return lines, end, nil
}

// lastLine parts the last line from those before.
func lastLine(data []byte) (before, last []byte) {
	at := bytes.LastIndexByte(bytes.TrimSuffix(data, []byte{'\n'}), '\n') + 1
	return data[:at], data[at:]
}
