// SPDX-License-Identifier: BSD-3-Clause

// A stand-in for Kata's runtime, under the name of a runtime class: it writes down what Kata would be given,
// has a simulated guest answer in the pod's network namespace, and then is runc.
//
// It stands in `bin` of the cluster's folder. Records go to `records`, one file a container; the simulated
// guests listen on `guests.sock` (guests.py). A pod whose guest does not start is not started.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type record struct {
	RuntimeClass string          `json:"runtime_class"`
	ID           string          `json:"id"`
	Time         time.Time       `json:"time"`
	Config       json.RawMessage `json:"config"`
}

type request struct {
	Do     string `json:"do"`
	ID     string `json:"id"`
	Record string `json:"record,omitempty"`
}

func main() {
	arguments := os.Args[1:]
	if err := before(arguments); err != nil {
		complain(arguments, err)
		os.Exit(1)
	}
	runc, err := exec.LookPath("runc")
	if err == nil {
		err = syscall.Exec(runc, append([]string{"runc"}, arguments...), os.Environ())
	}
	complain(arguments, err)
	os.Exit(1)
}

func before(arguments []string) error {
	if len(arguments) == 0 {
		return nil
	}
	id := arguments[len(arguments)-1]
	self, err := os.Executable()
	if err != nil {
		return err
	}
	folder := filepath.Dir(filepath.Dir(self))
	switch {
	case slices.Contains(arguments, "create"):
		path, err := write(folder, filepath.Base(self), id, after(arguments, "--bundle"))
		if err != nil {
			return err
		}
		return tell(folder, request{"create", id, path})
	case slices.Contains(arguments, "delete"):
		return tell(folder, request{"delete", id, ""})
	}
	return nil
}

func write(folder, class, id, bundle string) (string, error) {
	config, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return "", err
	}
	content, err := json.Marshal(record{class, id, time.Now().UTC(), config})
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "records", id+".json")
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}

func tell(folder string, what request) error {
	connection, err := net.DialTimeout("unix", filepath.Join(folder, "guests.sock"), 5*time.Second)
	if err != nil {
		return fmt.Errorf("the simulated guests do not answer: %w", err)
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(30 * time.Second))
	if err := json.NewEncoder(connection).Encode(what); err != nil {
		return err
	}
	answer, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return err
	}
	if answer = strings.TrimSpace(answer); answer != "ok" {
		return errors.New(answer)
	}
	return nil
}

func after(arguments []string, name string) string {
	at := slices.Index(arguments, name)
	if at < 0 || at+1 >= len(arguments) {
		return ""
	}
	return arguments[at+1]
}

// complain says it where containerd looks for what its runtime says.
func complain(arguments []string, err error) {
	text := fmt.Sprintf("simulated Kata: %v", err)
	fmt.Fprintln(os.Stderr, text)
	log, failed := os.OpenFile(after(arguments, "--log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if failed != nil {
		return
	}
	defer log.Close()
	line := map[string]string{"level": "error", "msg": text, "time": time.Now().Format(time.RFC3339)}
	json.NewEncoder(log).Encode(line)
}
