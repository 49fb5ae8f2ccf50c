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
// overlay and, as the last line, sealed as JSON.
const sumsName = "ossify-sums"

// sealed is what was stored of a checkpoint when it got its name.
type sealed struct {
	// Layer is the record that containers/storage has of it.
	Layer storage.Layer `json:"layer"`
	// Data are the sha256 of what is stored beside it, Sums that of the lines above.
	Data map[string]string `json:"data,omitempty"`
	Sums string            `json:"sums"`
}

func (s *Store) overlayDir() string { return filepath.Join(graphRoot(s.dir), "overlay") }

// maxUnsynced is the size of files, in bytes, of which a power cut leaves all or nothing: they are
// not worth a wait for the disk.
const maxUnsynced = 4096

// writeSums writes the file of a layer that is about to get its name. A small one may be empty after
// a power cut.
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
	if err := overlay.WriteSums(upper, io.MultiWriter(f, hash)); err != nil {
		return err
	}
	end := sealed{Layer: *layer, Data: map[string]string{}, Sums: hex.EncodeToString(hash.Sum(nil))}
	end.Layer.Names = []string{name}
	for key, value := range data {
		end.Data[key] = digestOf(value)
	}
	if err := json.NewEncoder(f).Encode(end); err != nil {
		return err
	}
	if size, err := f.Seek(0, io.SeekCurrent); err != nil || size <= maxUnsynced {
		return err
	}
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
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
	at := bytes.LastIndexByte(bytes.TrimSuffix(data, []byte{'\n'}), '\n') + 1
	end = &sealed{}
	if err := json.Unmarshal(data[at:], end); err != nil {
		return nil, nil, fmt.Errorf("its sums cannot be read: %w", err)
	}
	if digestOf(data[:at]) != end.Sums {
		return nil, nil, errors.New("its sums have changed")
	}
	return data[:at], end, nil
}
