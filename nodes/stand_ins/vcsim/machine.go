// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// virtualMachine answers two calls that simulator.VirtualMachine does not know, and three for a guest.
type virtualMachine struct {
	*simulator.VirtualMachine
	guests *guests
}

// PowerOnVMTask boots the guest first, so that what hinders it is told.
func (vm *virtualMachine) PowerOnVMTask(ctx *simulator.Context, request *types.PowerOnVM_Task) soap.HasFault {
	defer ctx.Session.Registry.Remove(ctx, request.This)
	host, ok := ctx.Map.Get(*vm.Runtime.Host).(*simulator.HostSystem)
	if vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff && ok && !host.Runtime.InMaintenanceMode {
		if err := vm.guests.start(ctx, &vm.VirtualMachine.VirtualMachine); err != nil {
			return &methods.PowerOnVM_TaskBody{
				Fault_: simulator.Fault(err.Error(), &types.SystemError{Reason: err.Error()})}
		}
	}
	return vm.VirtualMachine.PowerOnVMTask(ctx, request)
}

// ResetVMTask resets the guest that is there; the simulator would end it and start another.
func (vm *virtualMachine) ResetVMTask(ctx *simulator.Context, request *types.ResetVM_Task) soap.HasFault {
	defer ctx.Session.Registry.Remove(ctx, request.This)
	machine, has := vm.VirtualMachine, vm.guests.of(request.This)
	if has == nil || machine.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		return machine.ResetVMTask(ctx, request)
	}
	task := simulator.CreateTask(machine, "reset", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if err := has.ask("system_reset", nil); err != nil {
			return nil, &types.SystemError{Reason: err.Error()}
		}
		return nil, nil
	})
	return &methods.ResetVM_TaskBody{Res: &types.ResetVM_TaskResponse{Returnval: task.Run(ctx)}}
}

// ShutdownGuest presses the power button: the guest ends itself, or does not.
func (vm *virtualMachine) ShutdownGuest(ctx *simulator.Context, request *types.ShutdownGuest) soap.HasFault {
	defer ctx.Session.Registry.Remove(ctx, request.This)
	has := vm.guests.of(request.This)
	if has == nil || vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		return vm.VirtualMachine.ShutdownGuest(ctx, request)
	}
	if err := has.ask("system_powerdown", nil); err != nil {
		return &methods.ShutdownGuestBody{
			Fault_: simulator.Fault(err.Error(), &types.SystemError{Reason: err.Error()})}
	}
	return &methods.ShutdownGuestBody{Res: new(types.ShutdownGuestResponse)}
}

// AcquireTicket gives a ticket of the right shape; nothing listens where it leads.
func (vm *virtualMachine) AcquireTicket(ctx *simulator.Context, request *types.AcquireTicket) soap.HasFault {
	defer ctx.Session.Registry.Remove(ctx, request.This)
	body := &methods.AcquireTicketBody{}
	switch request.TicketType {
	case "webmks", "mks", "device":
	default:
		body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "ticketType"})
		return body
	}
	if fault := vm.unless(types.VirtualMachinePowerStatePoweredOn); fault != nil {
		body.Fault_ = fault
		return body
	}
	body.Res = &types.AcquireTicketResponse{Returnval: types.VirtualMachineTicket{
		Ticket: uuid.NewString(), CfgFile: vm.Config.Files.VmPathName, Host: "127.0.0.1", Port: 902}}
	return body
}

// MigrateVMTask is vMotion: the simulator's own relocation after the checks that a vCenter makes.
func (vm *virtualMachine) MigrateVMTask(ctx *simulator.Context, request *types.MigrateVM_Task) soap.HasFault {
	defer ctx.Session.Registry.Remove(ctx, request.This)
	body := &methods.MigrateVM_TaskBody{}
	if body.Fault_ = vm.refuses(ctx, request); body.Fault_ != nil {
		return body
	}
	spec := types.VirtualMachineRelocateSpec{Host: request.Host, Pool: request.Pool}
	made := vm.RelocateVMTask(ctx, &types.RelocateVM_Task{This: request.This, Spec: spec, Priority: request.Priority})
	if fault := made.Fault(); fault != nil {
		body.Fault_ = fault
		return body
	}
	task := made.(*methods.RelocateVM_TaskBody).Res.Returnval
	body.Res = &types.MigrateVM_TaskResponse{Returnval: task}
	return body
}

func (vm *virtualMachine) refuses(ctx *simulator.Context, request *types.MigrateVM_Task) *soap.Fault {
	if request.Host == nil && request.Pool == nil {
		return simulator.Fault("", &types.InvalidArgument{InvalidProperty: "host"})
	}
	if request.Host != nil {
		host, ok := ctx.Map.Get(*request.Host).(*simulator.HostSystem)
		if !ok {
			return simulator.Fault("", &types.ManagedObjectNotFound{Obj: *request.Host})
		}
		if host.Runtime.InMaintenanceMode {
			return simulator.Fault("", &types.InvalidState{})
		}
	}
	if request.State != "" {
		return vm.unless(request.State)
	}
	return nil
}

// unless gives the fault for another power state than the one that is needed.
func (vm *virtualMachine) unless(needed types.VirtualMachinePowerState) *soap.Fault {
	if vm.Runtime.PowerState == needed {
		return nil
	}
	return simulator.Fault("", &types.InvalidPowerState{
		RequestedState: needed, ExistingState: vm.Runtime.PowerState})
}
