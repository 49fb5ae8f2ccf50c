package compose

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ossify/ossify/pattern"
)

// The manifest as format 2 has it.
type (
	manifest struct {
		Version   string         `json:"version"`
		Pipelines []pipeline     `json:"pipelines"`
		Sources   map[string]any `json:"sources"`
	}
	pipeline struct {
		Name string `json:"name"`
		// Build refers to the pipeline whose tree has the tools.
		Build string `json:"build,omitempty"`
		// Runner prepares this pipeline's tree where it is a build root.
		Runner      string  `json:"runner,omitempty"`
		SourceEpoch int64   `json:"source-epoch"`
		Stages      []stage `json:"stages"`
	}
	stage struct {
		Type    string           `json:"type"`
		Inputs  map[string]input `json:"inputs,omitempty"`
		Options any              `json:"options,omitempty"`
	}
	input struct {
		Type       string `json:"type"`
		Origin     string `json:"origin"`
		References any    `json:"references"`
	}
	items struct {
		Items map[string]any `json:"items"`
	}
	// object is options, whose keys JSON sorts.
	object = map[string]any
)

func (c *composer) manifest() (*manifest, error) {
	inline := map[string]any{}
	write := c.debianStages
	if c.distro.rpm != nil {
		write = c.rpmStages
	}
	stages, err := write(inline)
	if err != nil {
		return nil, err
	}
	m := &manifest{Version: "2", Sources: map[string]any{
		"org.osbuild.curl": items{curlItems(c.os, c.build)},
	}}
	if len(inline) > 0 {
		m.Sources["org.osbuild.inline"] = items{inline}
	}
	add := func(p pipeline) {
		if c.opts.BuildRoot == "tree" && p.Name != "build" {
			p.Build = "name:build"
		}
		p.SourceEpoch = c.epoch
		m.Pipelines = append(m.Pipelines, p)
	}
	if c.opts.BuildRoot == "tree" {
		add(pipeline{Name: "build", Runner: c.distro.runner, Stages: []stage{c.packageStage(c.build)}})
	}
	add(pipeline{Name: "os", Stages: stages})
	final := stage{
		Type: "org.osbuild.tar",
		Inputs: map[string]input{"tree": {
			Type: "org.osbuild.tree", Origin: "org.osbuild.pipeline", References: []string{"name:os"},
		}},
		Options: object{"filename": c.image.file},
	}
	if c.image.bootable {
		final.Type, final.Options = "org.ossify.disk", c.diskOptions()
	}
	add(pipeline{Name: c.image.name, Stages: []stage{final}})
	return m, nil
}

// packageStage installs packages into an empty tree.
func (c *composer) packageStage(packages []pinned) stage {
	if c.distro.rpm != nil {
		return c.rpmStage(packages)
	}
	return dpkgStage(packages)
}

func dpkgStage(packages []pinned) stage {
	refs := object{}
	for _, p := range packages {
		refs[p.checksum] = object{}
	}
	return stage{Type: "org.ossify.dpkg", Inputs: map[string]input{"packages": {
		Type: "org.osbuild.files", Origin: "org.osbuild.source", References: refs,
	}}}
}

// curlItems pins packages; "size", in bytes, and "mirrors" are Ossify's additions
// to osbuild's schema of the source.
func curlItems(lists ...[]pinned) map[string]any {
	out := map[string]any{}
	for _, p := range slices.Concat(lists...) {
		item := object{"url": p.url, "size": p.size}
		if len(p.mirrors) > 0 {
			item["mirrors"] = p.mirrors
		}
		if p.secrets != "" {
			item["secrets"] = object{"name": p.secrets}
		}
		if p.insecure {
			item["insecure"] = true
		}
		out[p.checksum] = item
	}
	return out
}

// debianStages make the system's tree. They are sorted by how much they cost and
// how often what they depend on changes, so that a change reruns little.
func (c *composer) debianStages(inline map[string]any) ([]stage, error) {
	cust := &c.bp.Customizations
	stages := []stage{dpkgStage(c.os), {Type: "org.osbuild.script", Options: object{"script": forgetIdentity}}}
	if langs := c.generatedLocales(); len(langs) > 0 {
		stages = append(stages, stage{Type: "org.osbuild.script", Options: object{"script": localeScript(langs)}})
	}
	stages = append(stages, fileStages(c.systemFiles(), inline)...)
	stages = append(stages, placeStages(cust)...)
	stages = append(stages, accountStages(cust, true)...)
	stages = append(stages, customFileStages(cust, inline)...)
	stages = append(stages, debianServices(&cust.Services))
	stages = append(stages, identityStages(cust)...)
	stages = append(stages, fileStages([]File{{Path: "/etc/hosts", Data: hosts(cust.Hostname)}}, inline)...)
	if !c.image.bootable {
		return stages, nil
	}
	boot, err := c.bootStages()
	return append(stages, boot...), err
}

// placeStages set the language and the time zone.
func placeStages(cust *Customizations) []stage {
	var out []stage
	if len(cust.Locale.Languages) > 0 {
		out = append(out, stage{Type: "org.osbuild.locale", Options: object{"language": cust.Locale.Languages[0]}})
	}
	if z := cust.Timezone.Timezone; z != "" {
		out = append(out, stage{Type: "org.osbuild.timezone", Options: object{"zone": z}})
	}
	return out
}

// identityStages say which machine this is.
func identityStages(cust *Customizations) []stage {
	out := []stage{{
		// An empty file: the id is made at the first start, which is no
		// "first boot" to systemd, or it would ask questions and enable
		// every unit.
		Type: "org.osbuild.machine-id", Options: object{"first-boot": "no"},
	}}
	if cust.Hostname != "" {
		out = append(out, stage{Type: "org.osbuild.hostname", Options: object{"hostname": cust.Hostname}})
	}
	return out
}

// forgetIdentity removes what maintainer scripts made up at random, which is to
// be made on each machine at its first start.
const forgetIdentity = `set -e
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed
`

// generatedLocales are the locales that are not part of the C library.
func (c *composer) generatedLocales() []string {
	var out []string
	for _, l := range c.bp.Customizations.Locale.Languages {
		if l != "C" && l != "POSIX" && l != "C.UTF-8" && !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	return out
}

// localeScript writes locale.gen(5) with the character sets of Debian's list.
func localeScript(languages []string) string {
	return `set -e
: > /etc/locale.gen
for name in ` + strings.Join(languages, " ") + `; do
	awk -v name="$name" '$1 == name { print; found = 1 } END { exit !found }' /usr/share/i18n/SUPPORTED >> /etc/locale.gen || {
		echo "the locale $name does not exist; /usr/share/i18n/SUPPORTED lists those that do" >&2
		exit 1
	}
done
locale-gen
`
}

func (c *composer) installs(name string) bool {
	return slices.ContainsFunc(c.os, func(p pinned) bool { return p.name == name })
}

// systemFiles make a bare Debian system reach the network, and more packages.
func (c *composer) systemFiles() []File {
	out := []File{{Path: "/etc/systemd/network/80-dhcp.network", Data: `# Any wired interface, unless a file that sorts before this one says otherwise.
[Match]
Type=ether

[Network]
DHCP=yes
`}}
	if sources := c.imageSources(); sources != "" {
		out = append(out, File{Path: "/etc/apt/sources.list.d/debian.sources", Data: sources})
	}
	if servers := c.bp.Customizations.Timezone.NTPServers; len(servers) > 0 {
		out = append(out, File{
			Path: "/etc/systemd/timesyncd.conf.d/10-blueprint.conf",
			Data: "[Time]\nNTP=" + strings.Join(servers, " ") + "\n",
		})
	}
	if c.installs("openssh-server") {
		out = append(out, File{Path: "/etc/systemd/system/ssh.service.d/10-host-keys.conf", Data: `# The image has no host keys: each machine makes its own.
[Service]
ExecStartPre=
ExecStartPre=/usr/bin/ssh-keygen -A
ExecStartPre=/usr/sbin/sshd -t
`})
	}
	return out
}

// imageSources are the sources of packages of the system in the image: those it
// was made of, if they can be reached from another machine.
func (c *composer) imageSources() string {
	var b strings.Builder
	for _, s := range c.sites {
		if strings.HasPrefix(s.url, "file:") {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\n", s.url, s.suite, strings.Join(s.components, " "))
		if s.expired {
			b.WriteString("Check-Valid-Until: no\n")
		}
		// The keys of --keyring are not in the image.
		if c.opts.Keyring == "" {
			fmt.Fprintf(&b, "Signed-By: %s\n", c.distro.keyring)
		}
	}
	return b.String()
}

func hosts(hostname string) string {
	own := ""
	if hostname != "" {
		own = "127.0.1.1\t" + hostname
		if short, _, dotted := strings.Cut(hostname, "."); dotted {
			own += " " + short
		}
		own += "\n"
	}
	return "127.0.0.1\tlocalhost\n" + own + "::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
}

// accountStages make groups and users; homes says that these have to ask for their home directories.
func accountStages(cust *Customizations, homes bool) []stage {
	var out []stage
	if len(cust.Groups) > 0 {
		groups := object{}
		for _, g := range cust.Groups {
			groups[g.Name] = object{}
			if g.GID != nil {
				groups[g.Name] = object{"gid": *g.GID}
			}
		}
		out = append(out, stage{Type: "org.osbuild.groups", Options: object{"groups": groups}})
	}
	users, keys := map[string]object{}, map[string][]string{}
	for _, u := range cust.Users {
		users[u.Name] = u.options(homes)
		if u.Key != "" {
			keys[u.Name] = append(keys[u.Name], strings.TrimSpace(u.Key))
		}
	}
	for _, k := range cust.SSHKeys {
		if users[k.User] == nil {
			users[k.User] = object{}
		}
		if key := strings.TrimSpace(k.Key); !slices.Contains(keys[k.User], key) {
			keys[k.User] = append(keys[k.User], key)
		}
	}
	for name, list := range keys {
		users[name]["keys"] = list
	}
	if len(users) > 0 {
		out = append(out, stage{Type: "org.osbuild.users", Options: object{"users": users}})
	}
	return out
}

// systemUsers are those that every distribution has already, with homes of their own.
var systemUsers = []string{
	"root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data", "backup", "list",
	"irc", "nobody", "_apt", "adm", "shutdown", "halt", "operator", "ftp",
}

func (u *User) options(home bool) object {
	// Debian's useradd would take /bin/sh.
	o := object{"shell": "/bin/bash"}
	if home && !slices.Contains(systemUsers, u.Name) {
		o["home"] = "/home/" + u.Name
	}
	for key, value := range map[string]string{"description": u.Description, "home": u.Home, "shell": u.Shell} {
		if value != "" {
			o[key] = value
		}
	}
	for key, value := range map[string]*int{"uid": u.UID, "gid": u.GID, "expiredate": u.ExpireDate} {
		if value != nil {
			o[key] = *value
		}
	}
	if u.Password != nil {
		o["password"] = *u.Password
	}
	if u.ForcePasswordReset != nil {
		o["force_password_reset"] = *u.ForcePasswordReset
	}
	if len(u.Groups) > 0 {
		o["groups"] = u.Groups
	}
	return o
}

// debianServices add what a bare Debian system needs to reach the network.
func debianServices(s *Services) stage {
	enabled := s.Enabled
	off := slices.Concat(s.Disabled, s.Masked)
	for _, own := range []string{"systemd-networkd.service", "systemd-resolved.service"} {
		short := strings.TrimSuffix(own, ".service")
		if !slices.Contains(off, own) && !slices.Contains(off, short) && !slices.Contains(enabled, own) && !slices.Contains(enabled, short) {
			enabled = append(slices.Clone(enabled), own)
		}
	}
	return serviceStage(&Services{Enabled: enabled, Disabled: s.Disabled, Masked: s.Masked})
}

func serviceStage(s *Services) stage {
	o := object{}
	for key, units := range map[string][]string{
		"enabled_services": s.Enabled, "disabled_services": s.Disabled, "masked_services": s.Masked,
	} {
		if len(units) > 0 {
			o[key] = units
		}
	}
	return stage{Type: "org.osbuild.systemd", Options: o}
}

var kernelPackage = pattern.New(`^linux-image-([0-9].*)$`)

// kernels are the versions of the kernels that are installed, newest first.
func (c *composer) kernels() []string {
	var out []string
	for _, p := range c.os {
		if c.distro.rpm != nil {
			if uname := rpmKernel(p); uname != "" {
				out = append(out, uname)
			}
			continue
		}
		if m := kernelPackage().FindStringSubmatch(p.name); m != nil && !strings.HasSuffix(m[1], "-dbg") {
			out = append(out, strings.TrimSuffix(m[1], "-unsigned"))
		}
	}
	slices.SortFunc(out, func(a, b string) int { return compareNatural(b, a) })
	return slices.Compact(out)
}

var digits = pattern.New(`[0-9]+|[^0-9]+`)

// compareNatural compares digits as numbers: 6.1.0-9 comes before 6.1.0-10.
func compareNatural(a, b string) int {
	x, y := digits().FindAllString(a, -1), digits().FindAllString(b, -1)
	for i := range min(len(x), len(y)) {
		m, errM := strconv.ParseUint(x[i], 10, 64)
		n, errN := strconv.ParseUint(y[i], 10, 64)
		switch {
		case errM == nil && errN == nil && m < n:
			return -1
		case errM == nil && errN == nil && m > n:
			return 1
		case (errM != nil || errN != nil) && x[i] != y[i]:
			return strings.Compare(x[i], y[i])
		}
	}
	return len(x) - len(y)
}

// addInline puts a content into the manifest and returns its reference.
func addInline(inline map[string]any, data string) string {
	sum := sha256.Sum256([]byte(data))
	ref := "sha256:" + hex.EncodeToString(sum[:])
	inline[ref] = object{"encoding": "base64", "data": base64.StdEncoding.EncodeToString([]byte(data))}
	return ref
}
