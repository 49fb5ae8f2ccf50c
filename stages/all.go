// Package stages holds Ossify's native stages: one file each, its schema beside it,
// one line each in the table below.
package stages

import (
	"embed"

	"github.com/ossify/ossify/module"
)

// Schemas holds NAME.meta.json of every native module of this family.
//
//go:embed *.meta.json
var Schemas embed.FS

// All lists the native stages, sorted by name.
var All = []module.Module{
	module.Stage("org.osbuild.authselect", authselect),
	module.Stage("org.osbuild.bootiso.mono", bootisoMono),
	module.Stage("org.osbuild.chattr", chattr),
	module.Stage("org.osbuild.chmod", chmod),
	module.Stage("org.osbuild.chown", chown),
	module.Stage("org.osbuild.chrony", chrony),
	module.Stage("org.osbuild.cloud-init", cloudInit),
	module.Stage("org.osbuild.containers.storage.conf", containersStorageConf),
	module.Stage("org.osbuild.copy", copyPaths),
	module.Stage("org.osbuild.cron.script", cronScript),
	module.Stage("org.osbuild.crypttab", crypttab),
	module.Stage("org.osbuild.debug-shell", debugShell),
	module.Stage("org.osbuild.dnf.config", dnfConfig),
	module.Stage("org.osbuild.dracut", dracut),
	module.Stage("org.osbuild.dracut.conf", dracutConf),
	module.Stage("org.osbuild.error", fail),
	module.Stage("org.osbuild.firewall", firewall),
	module.Stage("org.osbuild.first-boot", firstBoot),
	module.Stage("org.osbuild.fix-bls", fixBLS),
	module.Stage("org.osbuild.fstab", fstab),
	module.Stage("org.osbuild.groups", groups),
	module.Stage("org.osbuild.grub2", grub2),
	module.Stage("org.osbuild.grub2.inst", grub2Inst),
	module.Stage("org.osbuild.grub2.iso", grub2Iso),
	module.Stage("org.osbuild.grub2.legacy", grub2Legacy),
	module.Stage("org.osbuild.hostname", hostname),
	module.Stage("org.osbuild.ignition", ignition),
	module.Stage("org.osbuild.insights-client.config", insightsClientConfig),
	module.Stage("org.osbuild.kernel-cmdline", kernelCmdline),
	module.Stage("org.osbuild.kernel-cmdline.bls-append", blsAppend),
	module.Stage("org.osbuild.keymap", keymap),
	module.Stage("org.osbuild.ln", ln),
	module.Stage("org.osbuild.locale", locale),
	module.Stage("org.osbuild.machine-id", machineID),
	module.Stage("org.osbuild.mkdir", mkdir),
	module.Stage("org.osbuild.nginx.conf", nginxConf),
	module.Stage("org.osbuild.nm.conf", nmConf),
	module.Stage("org.osbuild.nm.conn", nmConn),
	module.Stage("org.osbuild.noop", noop),
	module.Stage("org.osbuild.pwquality.conf", pwqualityConf),
	module.Stage("org.osbuild.resolv-conf", resolvConf),
	module.Stage("org.osbuild.rhsm.facts", rhsmFacts),
	module.Stage("org.osbuild.rpm.macros", rpmMacros),
	module.Stage("org.osbuild.rpmkeys.import", rpmkeysImport),
	module.Stage("org.osbuild.script", script),
	module.Stage("org.osbuild.selinux", selinuxLabels),
	module.Stage("org.osbuild.selinux.config", selinuxConfig),
	module.Stage("org.osbuild.shell.init", shellInit),
	module.Stage("org.osbuild.sshd.config", sshdConfig),
	module.Stage("org.osbuild.systemd", systemd),
	module.Stage("org.osbuild.tar", tarTree),
	module.Stage("org.osbuild.test", bootTestStage),
	module.Stage("org.osbuild.timezone", timezone),
	module.Stage("org.osbuild.untar", untar),
	module.Stage("org.osbuild.update-crypto-policies", updateCryptoPolicies),
	module.Stage("org.osbuild.users", users),
	module.Stage("org.osbuild.waagent.conf", waagentConf),
	module.Stage("org.osbuild.wsl-distribution.conf", wslDistributionConf),
	module.Stage("org.osbuild.wsl.conf", wslConf),
	module.Stage("org.osbuild.yum.config", yumConfig),
	module.Stage("org.osbuild.yum.repos", yumRepos),
	module.Stage("org.osbuild.zipl", zipl),
	module.Stage("org.osbuild.zipl.inst", ziplInst),
	module.Stage("org.ossify.disk", writeDisk),
	module.Stage("org.ossify.dpkg", installDebs),
}
