package compose

import (
	"fmt"
	"slices"
	"strings"
)

// rpmStage installs packages into an empty tree. The path of the database is that
// of the release, whatever the rpm of the build root has.
func (c *composer) rpmStage(packages []pinned) stage {
	type reference struct {
		ID      string `json:"id"`
		Options object `json:"options,omitempty"`
	}
	var refs []reference
	for _, p := range packages {
		r := reference{ID: p.checksum}
		if p.signed {
			r.Options = object{"metadata": object{"rpm.check_gpg": true}}
		}
		refs = append(refs, r)
	}
	// Two packages of one checksum are one file.
	slices.SortFunc(refs, func(a, b reference) int { return strings.Compare(a.ID, b.ID) })
	refs = slices.CompactFunc(refs, func(a, b reference) bool { return a.ID == b.ID })
	o := object{"dbpath": c.distro.rpm.dbpath}
	if len(c.keys) > 0 {
		o["gpgkeys"] = c.keys
	}
	return stage{Type: "org.osbuild.rpm", Inputs: map[string]input{"packages": {
		Type: "org.osbuild.files", Origin: "org.osbuild.source", References: refs,
	}}, Options: o}
}

// rpmStages make the tree of a distribution of RPM. The command line comes before
// the packages, for the kernel's scripts read it; labels come after everything.
func (c *composer) rpmStages(inline map[string]any) ([]stage, error) {
	cust := &c.bp.Customizations
	var stages []stage
	if c.image.bootable {
		stages = append(stages, stage{Type: "org.osbuild.kernel-cmdline", Options: object{
			"root_fs_uuid": c.id("root"), "kernel_opts": c.cmdline(),
		}})
	}
	stages = append(stages, c.rpmStage(c.os))
	stages = append(stages, repositoryStages(cust, inline)...)
	stages = append(stages, placeStages(cust)...)
	if servers := cust.Timezone.NTPServers; len(servers) > 0 {
		stages = append(stages, stage{Type: "org.osbuild.chrony", Options: object{"timeservers": servers}})
	}
	stages = append(stages, accountStages(cust, false)...)
	stages = append(stages, customFileStages(cust, inline)...)
	if s := &cust.Services; len(s.Enabled)+len(s.Disabled)+len(s.Masked) > 0 {
		stages = append(stages, serviceStage(s))
	}
	stages = append(stages, identityStages(cust)...)
	if c.image.bootable {
		boot, err := c.rpmBootStages(inline)
		if err != nil {
			return nil, err
		}
		stages = append(stages, boot...)
	}
	if c.installs(targetedPolicy) {
		stages = append(stages, stage{Type: "org.osbuild.selinux", Options: object{
			"file_contexts": "etc/selinux/targeted/contexts/files/file_contexts",
		}})
	}
	return stages, nil
}

const (
	targetedPolicy = "selinux-policy-targeted"
	rpmGrubConfig  = "/boot/grub2/grub.cfg"
)

// rpmBootStages write what the boot loader reads. The menu is a file of its own:
// org.osbuild.grub2.legacy would write commands that GRUB has with a BIOS only,
// and org.osbuild.grub2 wants a module that GRUB has on Fedora and its kin only.
func (c *composer) rpmBootStages(inline map[string]any) ([]stage, error) {
	kernels, err := c.bootableKernels()
	if err != nil {
		return nil, err
	}
	root := c.id("root")
	var b strings.Builder
	fmt.Fprintf(&b, "set timeout=1\nsearch --no-floppy --fs-uuid --set=root %s\n", root)
	for _, k := range kernels {
		fmt.Fprintf(&b, "menuentry '%s %s (%s)' {\n", c.distro.product, c.distro.version, k)
		fmt.Fprintf(&b, "\tlinux /boot/vmlinuz-%s root=UUID=%s %s\n\tinitrd /boot/initramfs-%[1]s.img\n}\n", k, root, c.cmdline())
	}
	return append(c.mountStages("defaults"), fileStages([]File{{Path: rpmGrubConfig, Data: b.String()}}, inline)...), nil
}

// repositoryStages make the blueprint's repositories known to the system.
func repositoryStages(cust *Customizations, inline map[string]any) []stage {
	var keys []File
	var out []stage
	files := map[string][]object{}
	var names []string
	for _, r := range cust.Repositories {
		o := object{"id": r.ID}
		for key, value := range map[string]string{"name": r.Name, "metalink": r.Metalink, "mirrorlist": r.Mirrorlist} {
			if value != "" {
				o[key] = value
			}
		}
		for key, value := range map[string]*bool{
			"gpgcheck": r.GPGCheck, "repo_gpgcheck": r.RepoGPGCheck, "enabled": r.Enabled, "sslverify": r.SSLVerify, "module_hotfixes": r.ModuleHotfixes,
		} {
			if value != nil {
				o[key] = *value
			}
		}
		if r.Priority != nil {
			o["priority"] = *r.Priority
		}
		if len(r.BaseURLs) > 0 {
			o["baseurl"] = r.BaseURLs
		}
		var urls []string
		for i, key := range r.GPGKeys {
			if strings.Contains(key, armorBegin) {
				path := fmt.Sprintf("/etc/pki/rpm-gpg/RPM-GPG-KEY-%s-%d", r.ID, i)
				keys = append(keys, File{Path: path, Data: key})
				key = "file://" + path
			}
			urls = append(urls, key)
		}
		if len(urls) > 0 {
			o["gpgkey"] = urls
		}
		name := r.file()
		if files[name] == nil {
			names = append(names, name)
		}
		files[name] = append(files[name], o)
	}
	out = append(out, fileStages(keys, inline)...)
	for _, name := range names {
		out = append(out, stage{Type: "org.osbuild.yum.repos", Options: object{"filename": name, "repos": files[name]}})
	}
	return out
}

// file is the name of the repository's file.
func (r *Repository) file() string {
	if r.Filename != "" {
		return r.Filename
	}
	return r.ID + ".repo"
}
