// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/http"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// faults that reach a client as typed ones: several of the simulator's own kinds do not parse.
var faults = map[string]func(file string) types.BaseMethodFault{
	"not-authenticated": func(string) types.BaseMethodFault { return &types.NotAuthenticated{} },
	"no-permission":     func(string) types.BaseMethodFault { return &types.NoPermission{} },
	"invalid-state":     func(string) types.BaseMethodFault { return &types.InvalidState{} },
	"in-use":            func(string) types.BaseMethodFault { return &types.ResourceInUse{} },
	"no-memory":         func(string) types.BaseMethodFault { return &types.InsufficientResourcesFault{} },
	"host":              func(string) types.BaseMethodFault { return &types.HostNotConnected{} },
	"timeout":           func(string) types.BaseMethodFault { return &types.Timedout{} },
	"file-locked": func(file string) types.BaseMethodFault {
		return &types.FileLocked{FileFault: types.FileFault{File: file}}
	},
}

type rule struct {
	Method, Type, Name, Fault, Message string
	Max, DelayMS                       int
}

// counter says how often each method was called since the start.
type counter struct {
	lock  sync.Mutex
	calls map[string]int
}

func (c *counter) add(method string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.calls[method]++
}

// door is the side door: POST /rules adds one, DELETE takes all back, both answer with the faults'
// counts; GET /calls tells how often each method was called.
func door(service *simulator.Service, counted *counter) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /calls", func(answer http.ResponseWriter, _ *http.Request) {
		counted.lock.Lock()
		defer counted.lock.Unlock()
		_ = json.NewEncoder(answer).Encode(counted.calls)
	})
	mux.HandleFunc("POST /rules", func(answer http.ResponseWriter, request *http.Request) {
		wanted := rule{Type: "*", Name: "*", Fault: "invalid-state"}
		if err := json.NewDecoder(request.Body).Decode(&wanted); err != nil {
			http.Error(answer, err.Error(), http.StatusBadRequest)
			return
		}
		fault, ok := faults[wanted.Fault]
		if !ok {
			http.Error(answer, "no such fault: "+wanted.Fault, http.StatusBadRequest)
			return
		}
		service.AddFaultRule(&simulator.FaultInjectionRule{
			MethodName: wanted.Method, ObjectType: wanted.Type, ObjectName: wanted.Name,
			FaultType: simulator.FaultTypeCustom, Fault: fault(wanted.Message), Message: wanted.Message,
			MaxCount: wanted.Max, Delay: wanted.DelayMS, Probability: 1, Enabled: true})
		_ = json.NewEncoder(answer).Encode(service.GetFaultStats())
	})
	mux.HandleFunc("DELETE /rules", func(answer http.ResponseWriter, _ *http.Request) {
		service.ClearFaultRules()
		_ = json.NewEncoder(answer).Encode(service.GetFaultStats())
	})
	return mux
}
