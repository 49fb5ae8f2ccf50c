package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// arguments is QEMU's command line.
func arguments(o Options, d disk, fw firmware, accel string) []string {
	// TCG's largest processor lets every distribution start; five-level paging only costs.
	cpu := "max,la57=off"
	if accel == "kvm" {
		cpu = "host"
	}
	network := "user,id=net"
	if o.SSHPort != 0 {
		network += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:22", o.SSHPort)
	}
	args := []string{
		"-nodefaults", "-no-user-config",
		"-machine", "q35,accel=" + accel,
		"-cpu", cpu,
		"-m", strconv.Itoa(o.Memory),
		"-smp", strconv.Itoa(o.CPUs),
		"-nographic", "-vga", "std",
		"-serial", "mon:stdio",
		"-drive", "if=none,id=disk,snapshot=on,format=" + d.format + ",file=" + escape(d.path),
		"-device", "virtio-blk-pci,drive=disk,bootindex=0",
		"-device", "virtio-rng-pci",
		"-netdev", network,
		// No option ROM: the machine must not try the network for a system.
		"-device", "virtio-net-pci,netdev=net,romfile=",
	}
	if fw.code != "" {
		args = append(args,
			"-drive", "if=pflash,unit=0,readonly=on,format="+fw.format+",file="+escape(fw.code),
			"-drive", "if=pflash,unit=1,snapshot=on,format="+fw.format+",file="+escape(fw.vars))
	}
	if o.Check {
		args = append(args, "-no-reboot") // an image that restarts for ever does not boot
	}
	return args
}

// escape doubles commas, which end values in QEMU's options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// firmware is a pair of OVMF files that belong together.
type firmware struct{ code, vars, format string }

// firmwares are where distributions put OVMF without Secure Boot: Debian and
// Ubuntu, Fedora, Arch; newer places first.
var firmwares = []firmware{
	{"usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd", "raw"},
	{"usr/share/edk2/ovmf/OVMF_CODE_4M.qcow2", "usr/share/edk2/ovmf/OVMF_VARS_4M.qcow2", "qcow2"},
	{"usr/share/edk2/ovmf/OVMF_CODE.fd", "usr/share/edk2/ovmf/OVMF_VARS.fd", "raw"},
	{"usr/share/edk2/x64/OVMF_CODE.4m.fd", "usr/share/edk2/x64/OVMF_VARS.4m.fd", "raw"},
	{"usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "usr/share/edk2-ovmf/x64/OVMF_VARS.fd", "raw"},
	{"usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd", "raw"},
}

// findFirmware returns the first pair below root that is complete.
func findFirmware(root string) (firmware, error) {
	for _, fw := range firmwares {
		fw.code, fw.vars = filepath.Join(root, fw.code), filepath.Join(root, fw.vars)
		_, noCode := os.Stat(fw.code)
		_, noVars := os.Stat(fw.vars)
		if noCode == nil && noVars == nil {
			return fw, nil
		}
	}
	return firmware{}, errors.New("cannot find UEFI firmware for QEMU: install ovmf (Debian, Ubuntu) or edk2-ovmf (Fedora, Arch)")
}

// Emulator is the program that boots images.
const Emulator = "qemu-system-x86_64"

// CheckFirmware returns an error if this machine has no firmware for UEFI.
func CheckFirmware() error {
	_, err := findFirmware("/")
	return err
}

// CheckKVM returns an error if the kernel makes no virtual machines for this user.
func CheckKVM() error { return probeKVM() }

// kvmCreateVM is KVM_CREATE_VM of linux/kvm.h.
const kvmCreateVM = 0xae01

// probeKVM returns nil if the kernel makes a virtual machine for us within
// two seconds; broken nested KVM may hang.
func probeKVM() error {
	result := make(chan error, 1)
	go func() { result <- createVM() }()
	select {
	case err := <-result:
		return err
	case <-time.After(2 * time.Second):
		return errors.New("the kernel does not answer")
	}
}

func createVM() error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	vm, err := unix.IoctlRetInt(int(f.Fd()), kvmCreateVM)
	if err != nil {
		return fmt.Errorf("cannot create a virtual machine: %w", err)
	}
	return unix.Close(vm)
}
