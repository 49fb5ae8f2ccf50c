package stages

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ossify/ossify/module"
)

const rpmStage = "org.osbuild.rpm"

type rpmOptions struct {
	DBPath          string   `json:"dbpath"`
	GPGKeys         []string `json:"gpgkeys"`
	GPGKeysFromTree []string `json:"gpgkeys.fromtree"`
	RPMKeys         struct {
		BinPath              string `json:"bin_path"`
		IgnoreImportFailures bool   `json:"ignore_import_failures"`
	} `json:"rpmkeys"`
	DisableDracut bool `json:"disable_dracut"`
	Exclude       struct {
		Docs bool `json:"docs"`
	} `json:"exclude"`
	InstallLangs     []string          `json:"install_langs"`
	NoDeps           bool              `json:"nodeps"`
	IgnoreArch       bool              `json:"ignorearch"`
	OSTreeBooted     bool              `json:"ostree_booted"`
	GenericEnv       map[string]string `json:"generic_env"`
	KernelInstallEnv struct {
		BootRoot  string `json:"boot_root"`
		ConfRoot  string `json:"conf_root"`
		Plugins   string `json:"plugins"`
		MachineID string `json:"machine_id"`
	} `json:"kernel_install_env"`
}

// installRPMs checks and installs the packages of the input "packages" with the
// build root's rpm, in one transaction, and tells in its metadata what is
// installed then.
func installRPMs(ctx context.Context, args *module.Args, options rpmOptions) (err error) {
	packages, ok := args.Inputs["packages"]
	if !ok {
		return errors.New(`the stage has no input "packages": give it one with the packages to install`)
	}
	r := &rpmRun{ctx: ctx, args: args, options: &options, packages: packages}
	if options.DBPath != "" {
		r.database = []string{"--dbpath", options.DBPath}
	}
	env, err := options.environment()
	if err != nil {
		return err
	}
	if err := r.importKeys(); err != nil {
		return err
	}
	if err := r.checkSignatures(); err != nil {
		return err
	}
	release, err := mountKernelFilesystems(args, true)
	defer func() { err = errors.Join(err, release()) }()
	if err != nil {
		return err
	}
	// Scriptlets use /dev/fd, and /dev has no links of its own.
	if err := os.Symlink("/proc/self/fd", "/dev/fd"); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := r.prepared(env); err != nil {
		return err
	}
	seed, err := treeEntry(args, "/var/lib/systemd/random-seed")
	if err != nil {
		return err
	}
	if err := os.Remove(seed); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return r.metadata()
}

// rpmRun is one run of the stage.
type rpmRun struct {
	ctx      context.Context
	args     *module.Args
	options  *rpmOptions
	packages module.Input
	// database are the arguments that name the database.
	database []string
}

// environment returns the variables that the options add for scriptlets.
func (o *rpmOptions) environment() ([]string, error) {
	env := maps.Clone(o.GenericEnv)
	if env == nil {
		env = map[string]string{}
	}
	var twice []string
	k := &o.KernelInstallEnv
	for name, value := range map[string]string{"BOOT_ROOT": k.BootRoot, "KERNEL_INSTALL_CONF_ROOT": k.ConfRoot, "KERNEL_INSTALL_PLUGINS": k.Plugins, "MACHINE_ID": k.MachineID} {
		if value == "" {
			continue
		}
		if _, ok := env[name]; ok {
			twice = append(twice, name)
		}
		env[name] = value
	}
	if len(twice) > 0 {
		slices.Sort(twice)
		return nil, fmt.Errorf("generic_env and kernel_install_env both set %s: leave one out", strings.Join(twice, ", "))
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		out = append(out, name+"="+env[name])
	}
	return out, nil
}

// command makes a command of one of RPM's programs for the tree. Scriptlets get
// the stage's environment.
func (r *rpmRun) command(tool string, argv ...string) (*exec.Cmd, error) {
	argv = append(append(slices.Clone(r.database), "--root", r.args.Tree), argv...)
	cmd, err := hostCommand(r.ctx, r.args, rpmStage, tool, argv...)
	if err != nil {
		return nil, err
	}
	cmd.Env = os.Environ()
	cmd.Dir = r.packages.Path
	return cmd, nil
}

func (r *rpmRun) rpmkeys() string {
	if r.options.RPMKeys.BinPath != "" {
		return r.options.RPMKeys.BinPath
	}
	return "rpmkeys"
}

// importKeys puts the keys of the options into the tree's database.
func (r *rpmRun) importKeys() error {
	for i, key := range r.options.GPGKeys {
		file, err := os.CreateTemp("", "gpgkey-")
		if err != nil {
			return err
		}
		_, err = file.WriteString(key)
		if err := errors.Join(err, file.Close()); err != nil {
			return errors.Join(err, os.Remove(file.Name()))
		}
		err = r.importKey(file.Name())
		if err := os.Remove(file.Name()); err != nil {
			return err
		}
		if err != nil && !r.options.RPMKeys.IgnoreImportFailures {
			return fmt.Errorf("import gpgkeys[%d]: %w", i, err)
		}
		if err != nil {
			fmt.Printf("gpgkeys[%d] is not imported: %v\n", i, err)
		}
	}
	return nil
}

func (r *rpmRun) importKey(file string) error {
	cmd, err := r.command(r.rpmkeys(), "--import", file)
	if err != nil {
		return err
	}
	return run(cmd)
}

// checkSignatures checks the packages for which the manifest wants it. They have
// to be signed: by default rpmkeys is content with digests.
func (r *rpmRun) checkSignatures() error {
	for _, name := range r.names() {
		if wanted, _ := r.packages.Data.Files[name]["rpm.check_gpg"].(bool); !wanted {
			continue
		}
		cmd, err := r.command(r.rpmkeys(), "--define", "_pkgverify_level all", "--checksig", name)
		if err != nil {
			return err
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("package %s is not signed by one of the keys in gpgkeys: %w: %s", name, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// names are those of the packages' files.
func (r *rpmRun) names() []string { return slices.Sorted(maps.Keys(r.packages.Data.Files)) }

// prepared installs the packages while the tree has what scriptlets look for.
func (r *rpmRun) prepared(env []string) (err error) {
	restore, err := fakeMachineID(r.args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	if r.options.OSTreeBooted {
		// Packages such as authselect look for it.
		const marker = "/run/ostree-booted"
		if err := makeDirs(r.args, "/run"); err != nil {
			return err
		}
		if err := writeFile(r.args, marker, ""); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, removeTreeFile(r.args, marker)) }()
	}
	if r.options.DisableDracut {
		enable, err := maskDracut(r.args)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, enable()) }()
	}
	if err := r.install(env); err != nil {
		return err
	}
	for _, key := range r.options.GPGKeysFromTree {
		file, err := treeTarget(r.args, key)
		if err != nil {
			return err
		}
		if err := r.importKey(file); err != nil {
			return fmt.Errorf("import %s of the tree: %w", key, err)
		}
	}
	return nil
}

func (r *rpmRun) install(env []string) error {
	var argv []string
	if r.options.Exclude.Docs {
		argv = append(argv, "--excludedocs")
	}
	if r.options.NoDeps {
		argv = append(argv, "--nodeps")
	}
	if len(r.options.InstallLangs) > 0 {
		argv = append(argv, "--define", "%_install_langs "+strings.Join(r.options.InstallLangs, ":"))
	}
	if r.options.IgnoreArch {
		argv = append(argv, "--ignorearch")
	}
	list, err := os.CreateTemp("", "manifest-")
	if err != nil {
		return err
	}
	defer os.Remove(list.Name())
	for _, name := range r.names() {
		fmt.Fprintln(list, name)
	}
	if err := list.Close(); err != nil {
		return err
	}
	// Signatures were checked where the manifest wants it, and content by checksum.
	cmd, err := r.command("rpm", append(argv, "--verbose", "--nosignature", "--install", list.Name())...)
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, env...)
	if err := run(cmd); err != nil {
		return fmt.Errorf("install %d packages: %w", len(r.packages.Data.Files), err)
	}
	return nil
}

// rpmPackage is what the metadata has of a package; null for what RPM does not know.
type rpmPackage struct {
	Name          string  `json:"name"`
	Version       string  `json:"version"`
	Release       string  `json:"release"`
	Epoch         *string `json:"epoch"`
	Arch          *string `json:"arch"`
	SigMD5        *string `json:"sigmd5"`
	SHA1Header    *string `json:"sha1header"`
	SHA256Header  *string `json:"sha256header"`
	SHA3256Header *string `json:"sha3_256header"`
	SigPGP        *string `json:"sigpgp"`
	SigGPG        *string `json:"siggpg"`
}

// metadata tells which packages are installed.
func (r *rpmRun) metadata() error {
	known, err := r.output("--querytags")
	if err != nil {
		return err
	}
	tags := strings.Fields(known)
	// Fields are separated by tabs; one that a package has begins with a "=".
	format := "%{NAME}\t%{VERSION}\t%{RELEASE}"
	for _, tag := range []string{"EPOCH", "ARCH", "SIGMD5", "SHA1HEADER", "SHA256HEADER", "SHA3_256HEADER", "SIGPGP", "SIGGPG"} {
		format += "\t"
		if slices.Contains(tags, tag) {
			format += "%|" + tag + "?{=%{" + tag + "}}|"
		}
	}
	text, err := r.output("--query", "--all", "--queryformat", format+"\n")
	if err != nil {
		return err
	}
	packages := []rpmPackage{}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) != 11 {
			return fmt.Errorf("internal error: rpm describes a package as %q", line)
		}
		p := rpmPackage{Name: fields[0], Version: fields[1], Release: fields[2]}
		for i, field := range []**string{&p.Epoch, &p.Arch, &p.SigMD5, &p.SHA1Header, &p.SHA256Header, &p.SHA3256Header, &p.SigPGP, &p.SigGPG} {
			if value, ok := strings.CutPrefix(fields[3+i], "="); ok {
				*field = &value
			}
		}
		packages = append(packages, p)
	}
	slices.SortStableFunc(packages, func(a, b rpmPackage) int { return strings.Compare(a.Name, b.Name) })
	return module.SetMetadata(map[string]any{"packages": packages})
}

// output runs rpm and returns what it prints.
func (r *rpmRun) output(argv ...string) (string, error) {
	cmd, err := r.command("rpm", argv...)
	if err != nil {
		return "", err
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run rpm %s: %w", argv[0], err)
	}
	return string(out), nil
}

// fakeMachineID gives the tree a machine id that is always the same, if it has
// none, as scriptlets may copy it. restore leaves an empty file.
func fakeMachineID(args *module.Args) (restore func() error, err error) {
	const path = "/etc/machine-id"
	file, err := treeTarget(args, path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		err := replaceFile(args, path, strings.Repeat("f", 32)+"\n")
		if err == nil {
			file, err = treeTarget(args, path)
		}
		if err == nil {
			err = os.Chmod(file, 0o444)
		}
		if err != nil {
			return nil, fmt.Errorf("make a machine id: %w", err)
		}
	}
	return func() error {
		if err := replaceFile(args, path, ""); err != nil {
			return err
		}
		file, err := treeEntry(args, path)
		if err != nil {
			return err
		}
		return os.Chmod(file, 0o444)
	}, nil
}

// maskDracut keeps kernels' scriptlets from making an initramfs until enable is
// called: that of a build root would not fit.
func maskDracut(args *module.Args) (enable func() error, err error) {
	const dir = "/etc/kernel/install.d"
	if err := makeDirs(args, dir); err != nil {
		return nil, err
	}
	var masked []string
	for _, name := range []string{"50-dracut.install", "51-dracut-rescue.install"} {
		file, err := treeEntry(args, filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if err := os.Symlink("/dev/null", file); err != nil {
			return nil, fmt.Errorf("mask dracut: %w", err)
		}
		masked = append(masked, file)
	}
	return func() error {
		var errs []error
		for _, file := range masked {
			errs = append(errs, os.Remove(file))
		}
		return errors.Join(errs...)
	}, nil
}

// removeTreeFile removes a file of the tree.
func removeTreeFile(args *module.Args, path string) error {
	file, err := treeEntry(args, path)
	if err != nil {
		return err
	}
	return os.Remove(file)
}
