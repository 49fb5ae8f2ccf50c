package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Digest returns the sha256 of a file's content, in hex. It is remembered under
// what stat(2) says of the file, so that large ones are read once.
func (s *Store) Digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("digest: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("digest: stat %s: %w", path, err)
	}
	memo := filepath.Join(s.dir, "digests", fmt.Sprintf("%x-%x-%x-%x.%x-%x.%x", st.Dev, st.Ino, st.Size,
		st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec))
	if data, err := os.ReadFile(memo); err == nil && len(data) == sha256.Size*2 {
		return string(data), nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", fmt.Errorf("digest: %w", err)
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	if err := writeFile(s.run.dir, memo, []byte(sum)); err != nil {
		return "", fmt.Errorf("digest: %w", err)
	}
	return sum, nil
}

// writeFile publishes a small file by rename from tmp, which goes with the engine.
func writeFile(tmp, path string, data []byte) error {
	f, err := os.CreateTemp(tmp, "file-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
