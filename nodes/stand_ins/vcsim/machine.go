// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// virtualMachine answers two calls that simulator.VirtualMachine does not know.
type virtualMachine struct{ *simulator.VirtualMachine }

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
