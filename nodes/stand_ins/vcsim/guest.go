// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
)

const (
	emulator  = "qemu-system-x86_64"
	firmware  = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	variables = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	cdUnit    = 7 // a controller of ESXi has this place for itself
)

// guest is one QEMU, that belongs to a machine that is on or suspended.
type guest struct {
	*monitor
	process *os.Process
	ended   chan struct{}
	has     hardware
	frozen  bool
}

// boot starts QEMU and returns once it runs the guest's processors.
func boot(folder string, vm *mo.VirtualMachine, has hardware) (*guest, error) {
	argv, err := arguments(folder, vm, has)
	if err != nil {
		return nil, err
	}
	complaints, err := os.Create(filepath.Join(folder, vm.Self.Value+".errors"))
	if err != nil {
		return nil, err
	}
	defer complaints.Close()
	command := exec.Command(emulator, argv...)
	command.Stderr = complaints
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, inside := io.Pipe()
	command.Stdout = inside
	if err := command.Start(); err != nil {
		return nil, err
	}
	made := &guest{monitor: newMonitor(in, out), process: command.Process, ended: make(chan struct{}), has: has}
	go func() {
		_ = command.Wait()
		_ = inside.Close()
		close(made.ended)
	}()
	if err := made.ask("qmp_capabilities", nil); err != nil {
		made.end()
		said, _ := os.ReadFile(complaints.Name())
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(string(said)))
	}
	return made, nil
}

func arguments(folder string, vm *mo.VirtualMachine, has hardware) ([]string, error) {
	argv := []string{"-name", vm.Self.Value, "-machine", "pc,accel=tcg", "-nodefaults", "-no-user-config",
		"-display", "none", "-qmp", "stdio", "-m", fmt.Sprint(vm.Config.Hardware.MemoryMB),
		"-smp", fmt.Sprint(vm.Config.Hardware.NumCPU)}
	if vm.Config.Firmware == "efi" {
		kept := filepath.Join(folder, vm.Self.Value+".vars")
		if err := copyOnce(variables, kept); err != nil {
			return nil, fmt.Errorf("no UEFI here, apt-get install ovmf: %w", err)
		}
		argv = append(argv, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+firmware,
			"-drive", "if=pflash,format=raw,unit=1,file="+kept)
	}
	if has.line != "" {
		argv = append(argv, "-chardev", "socket,id=line,host=127.0.0.1,server=on,wait=off,port="+has.line, "-serial", "chardev:line")
	}
	if has.log != "" {
		argv = append(argv, "-chardev", "file,id=log,path="+has.log, "-serial", "chardev:log")
	}
	argv = append(argv, "-device", "pvscsi,id=scsi")
	if has.cd != "" {
		// Not on the IDE controller: this firmware leaves its ports switched off.
		argv = append(argv, "-drive", "if=none,id=cd,media=cdrom,readonly=on,format=raw,file="+has.cd,
			"-device", "scsi-cd,drive=cd,bus=scsi.0,scsi-id="+fmt.Sprint(cdUnit))
	}
	ids := sorted(has.disks)
	sort.SliceStable(ids, func(one, other int) bool { return has.disks[ids[one]].unit < has.disks[ids[other]].unit })
	for _, id := range ids {
		if err := has.disks[id].grow(); err != nil {
			return nil, err
		}
		device := has.disks[id].device(id)
		device["bootindex"] = has.disks[id].unit + 1
		argv = append(argv, "-blockdev", text(has.disks[id].block(id)), "-device", text(device))
	}
	for _, id := range sorted(has.cards) {
		argv = append(argv, "-netdev", "user,id=net-"+id, "-device", text(has.cards[id].device(id)))
	}
	return argv, nil
}

func (d disk) block(id string) record {
	return record{"driver": "raw", "node-name": "node-" + id,
		"file": record{"driver": "file", "filename": d.path, "locking": "off"}}
}

func (d disk) device(id string) record {
	made := record{"driver": "scsi-hd", "id": id, "drive": "node-" + id, "share-rw": d.shared,
		"bus": "scsi.0", "scsi-id": d.unit}
	if d.unit == 0 { // what is booted: this firmware knows no PVSCSI
		made["driver"] = "virtio-blk-pci"
		delete(made, "bus")
		delete(made, "scsi-id")
	}
	return made
}

func (c card) device(id string) record {
	return record{"driver": "vmxnet3", "id": id, "netdev": "net-" + id, "mac": c.mac, "romfile": ""}
}

// become plugs in and out what has changed while the guest runs.
func (g *guest) become(wanted hardware) error {
	var wrong []error
	for _, id := range sorted(g.has.disks) {
		if _, stays := wanted.disks[id]; !stays {
			wrong = append(wrong, g.unplug(id), g.ask("blockdev-del", record{"node-name": "node-" + id}))
		}
	}
	for _, id := range sorted(wanted.disks) {
		now := wanted.disks[id]
		before, had := g.has.disks[id]
		switch {
		case !had:
			wrong = append(wrong, now.grow(), g.ask("blockdev-add", now.block(id)), g.ask("device_add", now.device(id)))
		case now.size > before.size:
			wrong = append(wrong, g.ask("block_resize", record{"node-name": "node-" + id, "size": now.size}))
		}
	}
	for _, id := range sorted(g.has.cards) {
		if _, stays := wanted.cards[id]; !stays {
			wrong = append(wrong, g.unplug(id), g.ask("netdev_del", record{"id": "net-" + id}))
		}
	}
	for _, id := range sorted(wanted.cards) {
		if _, had := g.has.cards[id]; !had {
			wrong = append(wrong, g.ask("netdev_add", record{"type": "user", "id": "net-" + id}),
				g.ask("device_add", wanted.cards[id].device(id)))
		}
	}
	g.has = wanted
	return errors.Join(wrong...)
}

func (g *guest) end() {
	_ = g.process.Kill()
	select {
	case <-g.ended:
	case <-time.After(answerTime):
	}
}

func sorted[T any](of map[string]T) []string {
	keys := make([]string, 0, len(of))
	for key := range of {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func text(of record) string {
	said, _ := json.Marshal(of)
	return string(said)
}

func copyOnce(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o600)
}
