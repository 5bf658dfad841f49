// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	answerTime = 30 * time.Second
	// A guest has to let go of a device, and under emulation it takes its time.
	unplugTime = 90 * time.Second
)

var errEnded = errors.New("QEMU has ended")

type record = map[string]any

type message struct {
	Return json.RawMessage         `json:"return"`
	Error  *struct{ Desc string }  `json:"error"`
	Event  string                  `json:"event"`
	Data   struct{ Device string } `json:"data"`
}

// monitor speaks QMP over a QEMU's own input and output.
type monitor struct {
	asking  sync.Mutex
	in      io.Writer
	answers chan message
	over    chan struct{}

	noting sync.Mutex
	gone   map[string]chan struct{}
}

func newMonitor(in io.Writer, out io.Reader) *monitor {
	made := &monitor{in: in, answers: make(chan message), over: make(chan struct{}), gone: map[string]chan struct{}{}}
	go made.listen(out)
	return made
}

func (m *monitor) listen(out io.Reader) {
	defer close(m.over)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var said message
		if json.Unmarshal(lines.Bytes(), &said) != nil {
			continue
		}
		switch {
		case said.Event == "DEVICE_DELETED":
			m.noting.Lock()
			if waits, ok := m.gone[said.Data.Device]; ok {
				close(waits)
				delete(m.gone, said.Data.Device)
			}
			m.noting.Unlock()
		case said.Return != nil || said.Error != nil:
			select {
			case m.answers <- said:
			case <-time.After(answerTime): // nobody waits for it any more
			}
		}
	}
}

// ask has one command done.
func (m *monitor) ask(command string, arguments any) error {
	m.asking.Lock()
	defer m.asking.Unlock()
	told := record{"execute": command}
	if arguments != nil {
		told["arguments"] = arguments
	}
	if err := json.NewEncoder(m.in).Encode(told); err != nil {
		return errEnded
	}
	select {
	case said := <-m.answers:
		if said.Error != nil {
			return fmt.Errorf("%s: %s", command, said.Error.Desc)
		}
		return nil
	case <-m.over:
		return errEnded
	case <-time.After(answerTime):
		return fmt.Errorf("%s: QEMU does not answer", command)
	}
}

// unplug takes a device out, and waits until the guest has let go of it.
func (m *monitor) unplug(id string) error {
	waits := make(chan struct{})
	m.noting.Lock()
	m.gone[id] = waits
	m.noting.Unlock()
	if err := m.ask("device_del", record{"id": id}); err != nil {
		return err
	}
	select {
	case <-waits:
		return nil
	case <-m.over:
		return errEnded
	case <-time.After(unplugTime):
		return fmt.Errorf("the guest does not let go of %s", id)
	}
}
