// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// A snapshot of a guest is a copy of its disks, made while its processors stand still. The simulator
// keeps the tree and restores nothing. Disks that several guests write to are in no snapshot, as
// they are independent under ESXi; which devices there were is not restored.

// keep copies the disks of a machine that a snapshot is taken of.
func (g *guests) keep(ctx *simulator.Context, made *simulator.VirtualMachineSnapshot) error {
	vm, ok := ctx.Map.Get(made.Vm).(*simulator.VirtualMachine)
	if !ok {
		return nil
	}
	folder := g.kept(made.Vm, made.Self)
	wrong := []error{os.MkdirAll(folder, 0o700)}
	has := g.of(made.Vm)
	if has != nil && !has.frozen {
		wrong = append(wrong, has.ask("stop", nil))
	}
	for id, disk := range read(ctx, &vm.VirtualMachine).disks {
		if !disk.shared {
			wrong = append(wrong, copyFile(disk.path, filepath.Join(folder, id)))
		}
	}
	if has != nil && !has.frozen {
		wrong = append(wrong, has.ask("cont", nil))
	}
	return errors.Join(wrong...)
}

// restore puts the kept disks in place of those that are there; no guest may use them.
func (g *guests) restore(ctx *simulator.Context, vm *mo.VirtualMachine, from types.ManagedObjectReference) error {
	var wrong []error
	for id, disk := range read(ctx, vm).disks {
		kept := filepath.Join(g.kept(vm.Self, from), id)
		if _, err := os.Stat(kept); err == nil {
			wrong = append(wrong, copyFile(kept, disk.path))
		}
	}
	return errors.Join(wrong...)
}

func (g *guests) kept(of types.ManagedObjectReference, more ...types.ManagedObjectReference) string {
	folder := filepath.Join(g.folder, of.Value+".snapshots")
	for _, one := range more {
		folder = filepath.Join(folder, one.Value)
	}
	return folder
}

// snapshot is a snapshot that brings disks back.
type snapshot struct {
	*simulator.VirtualMachineSnapshot
	guests *guests
}

// RevertToSnapshotTask ends the guest: without memory in the snapshot a machine is off afterwards.
func (s *snapshot) RevertToSnapshotTask(ctx *simulator.Context, request *types.RevertToSnapshot_Task) soap.HasFault {
	defer ctx.Session.Registry.Remove(ctx, request.This)
	machine, ok := ctx.Map.Get(s.Vm).(*simulator.VirtualMachine)
	if !ok {
		return s.VirtualMachineSnapshot.RevertToSnapshotTask(ctx, request)
	}
	var wrong error
	ctx.WithLock(machine, func() {
		switchOff(ctx, machine)
		wrong = s.guests.restore(ctx, &machine.VirtualMachine, s.Self)
	})
	if wrong != nil {
		return &methods.RevertToSnapshot_TaskBody{
			Fault_: simulator.Fault(wrong.Error(), &types.SystemError{Reason: wrong.Error()})}
	}
	return s.VirtualMachineSnapshot.RevertToSnapshotTask(ctx, request)
}

func switchOff(ctx *simulator.Context, machine *simulator.VirtualMachine) {
	off := types.VirtualMachinePowerStatePoweredOff
	ctx.Update(machine, []types.PropertyChange{
		{Name: "runtime.powerState", Val: off}, {Name: "summary.runtime.powerState", Val: off}})
}

// copyFile replaces what is there.
func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
