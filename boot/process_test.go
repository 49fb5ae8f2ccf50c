package boot

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test program plays a user of the package in a process of its own when
// these name an image.
const (
	checkVariable = "OSSIFY_BOOT_TEST_CHECK"
	startVariable = "OSSIFY_BOOT_TEST_START"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(checkVariable); path != "" {
		// First prove that the image is read-only for this process.
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			f.Close()
			fmt.Println("the image is writable")
			os.Exit(1)
		}
		os.Exit(report(Run(context.Background(), Options{Image: path, Accel: "tcg", Memory: 64, Check: true, Stdout: os.Stdout})))
	}
	if path := os.Getenv(startVariable); path != "" {
		_, err := Start(context.Background(), Options{Image: path, Accel: "tcg", Memory: 64, Stdout: os.Stdout})
		if err == nil {
			select {}
		}
		os.Exit(report(err))
	}
	os.Exit(m.Run())
}

func report(err error) int {
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// public is a directory an unprivileged user can reach and write.
func public(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "boot-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestReadOnlyImage(t *testing.T) {
	dir := public(t)
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, append(sector(t, prompt, false), make([]byte, 1<<20)...), 0o444); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), checkVariable+"="+path, "TMPDIR="+dir)
	if os.Getuid() == 0 {
		// Root may write everything, so somebody else looks.
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "boots: login prompt") {
		t.Errorf("got %s, %v", out, err)
	}
}

func TestDiesWithParent(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), startVariable+"="+image(t, sector(t, prompt+"\r\n", false)), "TMPDIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "testhost login: ") {
	}
	// The machine is the process that has the child's directory for its own.
	if len(users(t, dir)) == 0 {
		t.Fatalf("the machine does not run: %v", lines.Err())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for range 600 {
		if len(users(t, dir)) == 0 {
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("temporary files stay: %v, %v", left, err)
			}
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("still running: %v", users(t, dir))
}

// users lists the emulators whose TMPDIR is dir.
func users(t *testing.T, dir string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		// Processes of others and those just gone cannot be read.
		env, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(append([]byte{0}, env...), []byte("\x00TMPDIR="+dir+"\x00")) {
			continue
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err == nil && bytes.Contains(line, []byte("-serial")) {
			found = append(found, path)
		}
	}
	return found
}
