package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/ossify/ossify/lease"
	"github.com/ossify/ossify/monitor"
	"github.com/ossify/ossify/native"
	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/sandbox"
	"github.com/ossify/ossify/store"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// storeOptions say where things are; every command that builds has them.
type storeOptions struct {
	store   string
	maxSize sizeFlag
	rundir  string
	helper  string
	writer  writerFlag
	libdirs []string
	// defaultLibdirs are searched if none is given.
	defaultLibdirs []string
	remote         cacheOptions
	limits         limitOptions
	quiet          bool
	debug          bool
}

func (o *storeOptions) addFlags(cmd *cobra.Command) {
	cmd.Flags().Var(&o.maxSize, "cache-max-size", "size that the store is cut down to after the build, such as 20GB, or unlimited: what was not used for longest goes first")
	o.remote.addFlags(cmd)
	o.addModules(cmd)
}

// addModules adds what running modules needs.
func (o *storeOptions) addModules(cmd *cobra.Command) {
	o.limits.addFlags(cmd)
	o.addEngine(cmd)
	cmd.Flags().BoolVar(&o.debug, "debug", false, "print to standard error how each container is laid out")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "no progress and no summary")
}

// addEngine adds what decides which checkpoints are taken and how stages run.
func (o *storeOptions) addEngine(cmd *cobra.Command) {
	o.addStore(cmd)
	f := cmd.Flags()
	f.StringVar(&o.rundir, "rundir", "", "directory for sockets and other short-lived files (default: in the store)")
	f.StringVar(&o.helper, "helper", defaultHelper(), "socket of ossify-loop, which makes kernel mounts for people without root")
	o.writer = pipeline.DiskAuto
	f.Var(&o.writer, "disk-writer", "how disks get their filesystems: offline, by programs; mounted, by ossify-loop; auto, mounted where programs cannot")
	f.StringArrayVarP(&o.libdirs, "libdir", "l", nil, "directory of modules, searched before ossify's own, which are \"native\" (can be given several times)")
}

// addStore adds what names the store.
func (o *storeOptions) addStore(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.store, "store", defaultStore(), "directory of checkpoints and downloads; containers: is podman's storage, containers:DIR one at another place")
	cmd.Flags().StringVar(&o.store, "cache", defaultStore(), "same as --store")
}

// writerFlag is one of the values of pipeline.RunOptions.DiskWriter.
type writerFlag string

func (w *writerFlag) String() string { return string(*w) }

// Type is what usage messages call the value.
func (w *writerFlag) Type() string { return "way" }

// Set takes the value of the flag.
func (w *writerFlag) Set(text string) error {
	switch text {
	case pipeline.DiskOffline, pipeline.DiskMounted, pipeline.DiskAuto:
		*w = writerFlag(text)
		return nil
	}
	return fmt.Errorf("it is %s, %s or %s", pipeline.DiskOffline, pipeline.DiskMounted, pipeline.DiskAuto)
}

// defaultHelper is where ossify-loop listens.
func defaultHelper() string {
	if path := os.Getenv("OSSIFY_HELPER"); path != "" {
		return path
	}
	return lease.DefaultPath
}

// defaultStore follows the XDG base directory specification.
func defaultStore() string {
	if dir := os.Getenv("OSSIFY_STORE"); dir != "" {
		return dir
	}
	if realRoot() {
		return "/var/lib/ossify"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "ossify")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	return filepath.Join(home, ".local", "share", "ossify")
}

// engine is an open store with what a build needs around it.
type engine struct {
	store      *store.Store
	containers *sandbox.Containers
	index      *pipeline.Index
	monitor    monitor.Monitor
	closers    []func() error
}

// openEngine enters the user namespace and opens the store. The caller closes
// the engine.
func openEngine(o *storeOptions, mon monitor.Monitor) (_ *engine, err error) {
	if err := o.limits.check(); err != nil {
		return nil, err
	}
	// What the user's shell has open is not for modules.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("close descriptors for modules: %w", err)
	}
	e := &engine{monitor: mon}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if e.store, err = store.Open(o.store, o.rundir); err != nil {
		return nil, err
	}
	e.closers = append(e.closers, e.store.Close)
	dir, err := e.store.Memory("containers-")
	if err != nil {
		return nil, err
	}
	if e.containers, err = sandbox.NewContainers(dir); err != nil {
		return nil, err
	}
	e.containers.Limits = o.limits.limits()
	if o.debug {
		e.containers.Debug = os.Stderr
	}
	if o.limits.memory.text != "" || o.limits.pids > 0 {
		e.containers.Delegate()
	}
	libdir, err := nativeLibdir(e.store)
	if err != nil {
		return nil, err
	}
	if e.index, err = pipeline.OpenIndex(o.search(libdir)...); err != nil {
		return nil, err
	}
	e.index.Foreign = native.Foreign
	return e, nil
}

// nativeName stands for this program's own modules in --libdir.
const nativeName = "native"

// search lists the folders of modules: own stands where the user says, else last.
func (o *storeOptions) search(own string) []string {
	dirs := slices.Clone(o.libdirs)
	if len(dirs) == 0 {
		dirs = slices.Clone(o.defaultLibdirs)
	}
	if i := slices.Index(dirs, nativeName); i >= 0 {
		dirs[i] = own
		return dirs
	}
	return append(dirs, own)
}

func (e *engine) close() error {
	var errs []error
	for i := len(e.closers) - 1; i >= 0; i-- {
		errs = append(errs, e.closers[i]())
	}
	e.closers = nil
	return errors.Join(errs...)
}

// nativeLibdir returns the libdir of this program's own modules in the store,
// which it makes the first time.
func nativeLibdir(s *store.Store) (string, error) {
	digest, err := s.Digest(sandbox.Program())
	if err != nil {
		return "", fmt.Errorf("find native modules: %w", err)
	}
	dir := filepath.Join(s.Dir(), "lib", digest[:32])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, remove, err := s.Scratch("lib-")
	if err != nil {
		return "", err
	}
	defer remove()
	if err := native.Libdir(tmp, sourceModules()); err != nil {
		return "", fmt.Errorf("install native modules: %w", err)
	}
	// A power cut must not leave a place that is there, with files that are empty.
	if err := s.Sync(); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr == nil {
			return dir, nil // another build was quicker
		}
		return "", fmt.Errorf("install native modules: %w", err)
	}
	return dir, nil
}
