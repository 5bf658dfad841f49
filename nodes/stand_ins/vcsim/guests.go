// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log"
	"os"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// guests runs QEMU behind machines: it hears of each change of an object and follows it. A machine
// that is suspended is a guest whose processors stand still; its memory is not written to disk.
type guests struct {
	folder string
	lock   sync.Mutex
	all    map[types.ManagedObjectReference]*guest
}

func newGuests(folder string) (*guests, error) {
	return &guests{folder: folder, all: map[types.ManagedObjectReference]*guest{}}, os.MkdirAll(folder, 0o700)
}

// Reference names this listener among the registry's others.
func (g *guests) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Hypervouch", Value: "guests"}
}

// PutObject is told of new objects.
func (g *guests) PutObject(ctx *simulator.Context, made mo.Reference) {
	if one, ok := made.(*simulator.VirtualMachineSnapshot); ok {
		note(one.Self, g.keep(ctx, one))
	}
}

// UpdateObject is told of changes, after them.
func (g *guests) UpdateObject(ctx *simulator.Context, changed mo.Reference, changes []types.PropertyChange) {
	vm, ok := changed.(*mo.VirtualMachine)
	if !ok || vm.Config == nil {
		return
	}
	for _, change := range changes {
		switch {
		case change.Name == "runtime.powerState":
			g.follow(ctx, vm)
			return
		case strings.HasPrefix(change.Name, "config.hardware.device"):
			if has := g.of(vm.Self); has != nil {
				note(vm.Self, has.become(read(ctx, vm)))
			}
			return
		}
	}
}

// RemoveObject is told of objects that are gone.
func (g *guests) RemoveObject(_ *simulator.Context, gone types.ManagedObjectReference) {
	if gone.Type != "VirtualMachine" {
		return
	}
	g.end(gone)
	_ = os.Remove(g.folder + "/" + gone.Value + ".vars")
	_ = os.Remove(g.folder + "/" + gone.Value + ".errors")
	_ = os.RemoveAll(g.kept(gone))
}

func (g *guests) follow(ctx *simulator.Context, vm *mo.VirtualMachine) {
	has := g.of(vm.Self)
	switch vm.Runtime.PowerState {
	case types.VirtualMachinePowerStatePoweredOff:
		g.end(vm.Self)
	case types.VirtualMachinePowerStateSuspended:
		if has != nil {
			has.frozen = true
			note(vm.Self, has.ask("stop", nil))
		}
	case types.VirtualMachinePowerStatePoweredOn:
		switch {
		case has == nil:
			note(vm.Self, g.start(ctx, vm))
		case has.frozen:
			has.frozen = false
			note(vm.Self, has.ask("cont", nil))
		}
	}
}

// start boots a machine's guest unless it has one.
func (g *guests) start(ctx *simulator.Context, vm *mo.VirtualMachine) error {
	if g.of(vm.Self) != nil {
		return nil
	}
	made, err := boot(g.folder, vm, read(ctx, vm))
	if err != nil {
		return err
	}
	g.lock.Lock()
	g.all[vm.Self] = made
	g.lock.Unlock()
	go g.watch(ctx.Map, vm, made)
	return nil
}

// watch lets a machine be off once its guest has ended by itself.
func (g *guests) watch(registry *simulator.Registry, vm *mo.VirtualMachine, one *guest) {
	<-one.ended
	ctx := &simulator.Context{Context: context.Background(), Map: registry}
	ctx.WithLock(vm.Self, func() {
		if g.of(vm.Self) != one {
			return
		}
		if machine, ok := registry.Get(vm.Self).(*simulator.VirtualMachine); ok {
			switchOff(ctx, machine)
		}
	})
}

func (g *guests) of(ref types.ManagedObjectReference) *guest {
	g.lock.Lock()
	defer g.lock.Unlock()
	return g.all[ref]
}

func (g *guests) end(ref types.ManagedObjectReference) {
	g.lock.Lock()
	has := g.all[ref]
	delete(g.all, ref)
	g.lock.Unlock()
	if has != nil {
		has.end()
	}
}

func (g *guests) endAll() {
	g.lock.Lock()
	left := make([]types.ManagedObjectReference, 0, len(g.all))
	for ref := range g.all {
		left = append(left, ref)
	}
	g.lock.Unlock()
	for _, ref := range left {
		g.end(ref)
	}
}

func note(ref types.ManagedObjectReference, err error) {
	if err != nil {
		log.Printf("%s: %v", ref.Value, err)
	}
}
