// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// disk, card and hardware are what of a machine's configuration QEMU is given: disks on a PVSCSI
// controller and vmxnet3 cards, as under ESXi, but QEMU's own models of them, and the first disk
// and the CD otherwise.
type disk struct {
	path   string
	unit   int32
	size   int64
	shared bool
}

type card struct{ mac string }

type hardware struct {
	disks map[string]disk
	cards map[string]card
	cd    string
	line  string // port of the first serial line
	log   string // file of the second one
}

// read takes a machine's devices apart; IDs are made of what stays the same while they move.
func read(ctx *simulator.Context, vm *mo.VirtualMachine) hardware {
	found := hardware{disks: map[string]disk{}, cards: map[string]card{}}
	for _, device := range vm.Config.Hardware.Device {
		switch one := device.(type) {
		case *types.VirtualDisk:
			if made, ok := readDisk(ctx, one); ok {
				found.disks[id("disk", made.path)] = made
			}
		case *types.VirtualCdrom:
			if iso, ok := one.Backing.(*types.VirtualCdromIsoBackingInfo); ok {
				found.cd = local(ctx, iso.FileName)
			}
		case *types.VirtualSerialPort:
			switch backing := one.Backing.(type) {
			case *types.VirtualSerialPortURIBackingInfo:
				found.line = backing.ServiceURI[strings.LastIndex(backing.ServiceURI, ":")+1:]
			case *types.VirtualSerialPortFileBackingInfo:
				found.log = local(ctx, backing.FileName)
			}
		case types.BaseVirtualEthernetCard:
			mac := one.GetVirtualEthernetCard().MacAddress
			found.cards[id("card", mac)] = card{mac: mac}
		}
	}
	return found
}

func readDisk(ctx *simulator.Context, device *types.VirtualDisk) (disk, bool) {
	backing, ok := device.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok || device.UnitNumber == nil {
		return disk{}, false
	}
	descriptor := local(ctx, backing.FileName)
	size := max(device.CapacityInBytes, capacity(descriptor))
	return disk{
		path: strings.TrimSuffix(descriptor, ".vmdk") + "-flat.vmdk", unit: *device.UnitNumber, size: size,
		shared: backing.Sharing == string(types.VirtualDiskSharingSharingMultiWriter)}, true
}

// grow gives a flat file the size that its descriptor tells: the simulator leaves it empty.
func (d disk) grow() error {
	now, err := os.Stat(d.path)
	if err != nil {
		return err
	}
	if now.Size() < d.size {
		return os.Truncate(d.path, d.size)
	}
	return nil
}

// capacity is what a descriptor says: `RW SECTORS VMFS "name-flat.vmdk"`.
func capacity(descriptor string) int64 {
	file, err := os.Open(descriptor)
	if err != nil {
		return 0
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var sectors int64
		if count, _ := fmt.Sscanf(lines.Text(), "RW %d", &sectors); count == 1 {
			return sectors << 9
		}
	}
	return 0
}

// local is where a file of a datastore, `[name] path`, lies on this machine.
func local(ctx *simulator.Context, name string) string {
	var where object.DatastorePath
	if !where.FromString(name) {
		return ""
	}
	for _, entity := range ctx.Map.All("Datastore") {
		if store, ok := entity.(*simulator.Datastore); ok && store.Name == where.Datastore {
			return filepath.Join(store.Summary.Url, where.Path)
		}
	}
	return ""
}

func id(kind, of string) string {
	digest := fnv.New64a()
	_, _ = digest.Write([]byte(of))
	return fmt.Sprintf("%s-%016x", kind, digest.Sum64())
}
