// SPDX-License-Identifier: Apache-2.0

// A vCenter to test against: govmomi's simulator with what a driver's suite needs besides.
//
// The simulator answers vMotion and console tickets with MethodNotFound; both are added here, the
// ticket leads nowhere. With -guests each machine that is powered on is a QEMU. A second port takes
// rules for faults: POST /rules {"Method": "...", "Fault": "no-memory", "Max": 1}, DELETE /rules takes
// all of them back; GET /calls counts what was called. Its name says that it is a simulator. Once it
// serves, one line of JSON with its URL is printed. It ends by SIGTERM.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	_ "github.com/vmware/govmomi/pbm/simulator"
)

type options struct {
	listen, faults, user, password, certificate, key, load, guests string
	taskDelay                                                      int
}

func main() {
	model := simulator.VPX()
	var given options
	flag.IntVar(&model.Datacenter, "datacenters", 1, "datacenters")
	flag.IntVar(&model.Cluster, "clusters", 1, "clusters of each datacenter")
	flag.IntVar(&model.ClusterHost, "hosts", 2, "hosts of each cluster")
	flag.IntVar(&model.Host, "standalone-hosts", 0, "hosts without a cluster")
	flag.IntVar(&model.Datastore, "datastores", 2, "datastores")
	flag.IntVar(&model.Machine, "machines", 1, "virtual machines of each resource pool")
	flag.BoolVar(&model.Autostart, "autostart", true, "whether these are on")
	flag.IntVar(&model.DelayConfig.Delay, "delay", 0, "milliseconds that each call takes longer")
	flag.IntVar(&given.taskDelay, "task-delay", 0, "milliseconds that each task takes longer")
	flag.StringVar(&given.listen, "listen", "127.0.0.1:0", "address of the API")
	flag.StringVar(&given.faults, "faults", "127.0.0.1:0", "address that takes rules for faults")
	flag.StringVar(&given.user, "user", "user", "the only one who may log in")
	flag.StringVar(&given.password, "password", "", "password; better by $VCSIM_PASSWORD")
	flag.StringVar(&given.certificate, "certificate", "", "TLS certificate, PEM; else a built-in one")
	flag.StringVar(&given.key, "key", "", "its private key")
	flag.StringVar(&given.load, "load", "", "folder of a model that was saved from a vCenter")
	flag.StringVar(&given.guests, "guests", "", "folder for guests: each machine that is powered on is a QEMU")
	flag.Parse()
	if given.password == "" {
		given.password = os.Getenv("VCSIM_PASSWORD")
	}
	if err := serve(model, given); err != nil {
		log.Fatal(err)
	}
}

func serve(model *simulator.Model, given options) error {
	// Left alone it tells the name and the build of a real one.
	model.ServiceContent.About.FullName += " (govmomi simulator)"
	if err := fill(model, given.load); err != nil {
		return err
	}
	defer model.Remove()
	if given.taskDelay > 0 {
		simulator.TaskDelay.Delay = given.taskDelay
		// Others may look at what a slow task works on.
		simulator.TaskDelay.MethodDelay = map[string]int{"LockHandoff": 0}
	}
	service := model.Service
	service.RegisterEndpoints = true
	service.Listen = &url.URL{Host: given.listen, User: url.UserPassword(given.user, given.password)}
	service.TLS = new(tls.Config)
	if given.certificate != "" {
		pair, err := tls.LoadX509KeyPair(given.certificate, given.key)
		if err != nil {
			return err
		}
		service.TLS.Certificates = []tls.Certificate{pair}
	}
	var behind *guests
	if given.guests != "" {
		made, err := newGuests(given.guests)
		if err != nil {
			return err
		}
		behind = made
		model.Map().AddHandler(behind)
		defer behind.endAll()
	}
	counted := &counter{calls: map[string]int{}}
	model.Map().Handler = before(behind, counted)
	server := service.NewServer()
	defer server.Close()
	side, err := net.Listen("tcp", given.faults)
	if err != nil {
		return err
	}
	doorServer := &http.Server{Handler: door(service, counted), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = doorServer.Serve(side) }()
	defer doorServer.Close()

	ready := map[string]any{
		"url": "https://" + server.URL.Host + server.URL.Path, "faults": "http://" + side.Addr().String(),
		"pid": os.Getpid(),
	}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		return err
	}
	untilTold()
	return nil
}

func fill(model *simulator.Model, folder string) error {
	if folder != "" {
		return model.Load(folder)
	}
	return model.Create()
}

// before is asked ahead of each call; it lends the session our own virtual machine for some methods.
func before(behind *guests, counted *counter) func(*simulator.Context, *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	ours := map[string]bool{"AcquireTicket": true, "MigrateVM_Task": true}
	if behind != nil {
		ours["PowerOnVM_Task"], ours["ResetVM_Task"], ours["ShutdownGuest"] = true, true, true
	}
	return func(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
		counted.add(method.Name)
		if machine, ok := ctx.Map.Get(method.This).(*simulator.VirtualMachine); ok && ctx.Session != nil && ours[method.Name] {
			ctx.Session.Registry.Put(&virtualMachine{machine, behind})
		}
		if kept, ok := ctx.Map.Get(method.This).(*simulator.VirtualMachineSnapshot); ok && ctx.Session != nil &&
			behind != nil && method.Name == "RevertToSnapshot_Task" {
			ctx.Session.Registry.Put(&snapshot{kept, behind})
		}
		return nil, nil
	}
}

func untilTold() {
	over := make(chan os.Signal, 1)
	signal.Notify(over, syscall.SIGINT, syscall.SIGTERM)
	fmt.Fprintln(os.Stderr, "ended by", <-over)
}
