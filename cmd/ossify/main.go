// Command ossify builds operating-system images without root. It is the engine,
// the command line and, under their own names, every native module.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/ossify/ossify/ansi"
	"github.com/ossify/ossify/native"
	"github.com/ossify/ossify/pipeline"
	"github.com/ossify/ossify/sources"
	"github.com/spf13/cobra"
	"go.podman.io/storage/pkg/reexec"
)

// version is set by the Makefile.
var version = "devel"

// Exit statuses: 2 is for what is wrong before anything runs, as osbuild's.
const (
	exitFailed      = 1
	exitInvalid     = 2
	exitInterrupted = 130
)

// errInterrupted is the cause of a build that the user ended.
var errInterrupted = errors.New("interrupted")

// usageError is wrong use of the command line.
type usageError struct{ error }

func main() {
	native.Start(sourceModules())
	if reexec.Init() {
		return
	}
	if os.Getenv("GOGC") == "" {
		// The heap is small; collecting it less often spares a twentieth of
		// a build's processor time.
		debug.SetGCPercent(400)
	}
	ctx, stop := signalContext()
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// sourceModules are the native modules that package native leaves to main.
func sourceModules() native.Family {
	return native.Family{Folder: "sources", Class: "Source", Table: sources.All, Schemas: sources.Schemas}
}

// signalContext is cancelled by the first SIGINT, SIGTERM or SIGHUP. A later
// one ends the process at once; those within a second of the first are taken
// for the same key press, which reaches us from the terminal and from our
// parent process.
func signalContext() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		first := time.Now()
		cancel(errInterrupted)
		for range signals {
			if time.Since(first) > time.Second {
				os.Exit(exitInterrupted)
			}
		}
	}()
	return ctx, func() { signal.Stop(signals) }
}

func run(ctx context.Context, args []string) int {
	cmd := rootCommand()
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	return report(err)
}

// report is the one place that turns an error into a message and a status.
func report(err error) int {
	name := "ossify"
	if isOsbuild() {
		name = "osbuild"
	}
	var invalid *pipeline.ValidationError
	var usage usageError
	var failed *pipeline.StageFailed
	switch {
	case errors.Is(err, errReported):
		var r reportedError
		errors.As(err, &r)
		return r.status
	case errors.Is(err, errInterrupted):
		fmt.Fprintf(os.Stderr, "%s: interrupted; finished stages are kept\n", name)
		return exitInterrupted
	case errors.As(err, &invalid):
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, plain(err.Error(), "\n"))
		return exitInvalid
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "%s: %v\nTry '%s --help'.\n", name, err, name)
		return exitInvalid
	case errors.As(err, &failed):
		lines := failed.Result.LastLines(25)
		if n := len(lines); n > 0 && failed.Result.Error != nil && lines[n-1] == "error: "+failed.Result.Error.Value {
			lines = lines[:n-1] // the message below says it again
		}
		if len(lines) > 0 {
			fmt.Fprintf(os.Stderr, "\nlast output of %s:\n", failed.Result.Stage.Name)
			for _, line := range lines {
				if over := len(line) - maxLine; over > 0 {
					line = "[...] " + line[over:]
				}
				fmt.Fprintln(os.Stderr, "  "+ansi.Line([]byte(line)))
			}
			fmt.Fprintln(os.Stderr)
		}
	}
	text := plain(err.Error(), "\n  ")
	if over := len(text) - maxError; over > 0 {
		text = text[:maxError/2] + "\n[...]\n" + text[maxError/2+over:]
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", name, strings.ToValidUTF8(text, ""))
	return exitFailed
}

const (
	// maxLine bounds a line of a module's output, in bytes.
	maxLine = 2000
	// maxError bounds an error, in bytes.
	maxError = 8000
)

// plain is the text of an error as the terminal gets it, with newline between its
// lines. Modules have a say in it, so it has no control sequences.
func plain(text, newline string) string {
	var strip ansi.Stripper
	return strings.ReplaceAll(strings.TrimRight(strip.Strip([]byte(text)), "\n"), "\n", newline)
}

// errReported marks an error that was already told in another form (JSON).
var errReported = errors.New("reported")

type reportedError struct{ status int }

func (reportedError) Error() string        { return "reported" }
func (reportedError) Is(target error) bool { return target == errReported }

func rootCommand() *cobra.Command {
	var opts buildOptions
	root := &cobra.Command{
		Use:           "ossify MANIFEST",
		Short:         "Build operating-system images without root",
		Long:          "Ossify runs an osbuild manifest (a file, or - for standard input) without root.\nEvery stage becomes a checkpoint in the store, so that building again only does what changed.",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("one manifest is needed, got %d arguments", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return buildManifest(cmd.Context(), args[0], &opts)
		},
	}
	root.SetVersionTemplate("ossify {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help"})
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	opts.addFlags(root)
	if isOsbuild() {
		root.CompletionOptions.DisableDefaultCmd = true
		asOsbuild(root, &opts)
		return root
	}
	root.AddCommand(blameCommand(), composeCommand(), bootCommand(), diffCommand(), doctorCommand(), modulesCommand(), planCommand(), schemaCommand(), shellCommand(), storeCommand(), unshareCommand())
	return root
}
