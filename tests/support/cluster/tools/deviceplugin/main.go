// SPDX-License-Identifier: BSD-3-Clause

// A device plugin that offers pass-through GPUs which do not exist. How many there are stands in a file, which
// it reads again each time it gets SIGHUP.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pb "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

type plugin struct {
	pb.UnimplementedDevicePluginServer
	count string
	again chan os.Signal
}

func (p *plugin) GetDevicePluginOptions(context.Context, *pb.Empty) (*pb.DevicePluginOptions, error) {
	return &pb.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *pb.Empty, stream pb.DevicePlugin_ListAndWatchServer) error {
	for {
		text, err := os.ReadFile(p.count)
		if err != nil {
			return err
		}
		count, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return err
		}
		answer := &pb.ListAndWatchResponse{}
		for number := range count {
			device := &pb.Device{ID: fmt.Sprintf("gpu-%d", number), Health: pb.Healthy}
			answer.Devices = append(answer.Devices, device)
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		select {
		case <-p.again:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (p *plugin) Allocate(_ context.Context, asked *pb.AllocateRequest) (*pb.AllocateResponse, error) {
	answer := &pb.AllocateResponse{}
	for _, container := range asked.ContainerRequests {
		one := &pb.ContainerAllocateResponse{
			Envs: map[string]string{"PCI_RESOURCE_NVIDIA_COM_PGPU": strings.Join(container.DevicesIds, ",")},
		}
		for number := range container.DevicesIds {
			path := fmt.Sprintf("/dev/vfio/%d", number)
			one.Devices = append(one.Devices,
				&pb.DeviceSpec{ContainerPath: path, HostPath: "/dev/null", Permissions: "rw"})
		}
		answer.ContainerResponses = append(answer.ContainerResponses, one)
	}
	return answer, nil
}

func main() {
	folder := flag.String("folder", "/var/lib/kubelet/device-plugins", "where kubelet's socket is")
	resource := flag.String("resource", "nvidia.com/pgpu", "the resource's name")
	count := flag.String("count", "", "file with the number of devices")
	flag.Parse()
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	// Registered again when kubelet's socket is a new one: a restarted kubelet has forgotten its plugins.
	for known := uint64(0); ; time.Sleep(200 * time.Millisecond) {
		var now syscall.Stat_t
		if syscall.Stat(filepath.Join(*folder, "kubelet.sock"), &now) != nil || now.Ino == known {
			continue
		}
		if err := serve(*folder, *resource, &plugin{count: *count, again: again}); err != nil {
			fmt.Println("not registered:", err)
			continue
		}
		fmt.Println("registered")
		known = now.Ino
	}
}

var running *grpc.Server

func serve(folder, resource string, served *plugin) error {
	const name = "simulated-pgpu.sock"
	if running != nil {
		running.Stop()
	}
	os.Remove(filepath.Join(folder, name))
	listener, err := net.Listen("unix", filepath.Join(folder, name))
	if err != nil {
		return err
	}
	running = grpc.NewServer()
	pb.RegisterDevicePluginServer(running, served)
	go running.Serve(listener)
	target := "unix://" + filepath.Join(folder, "kubelet.sock")
	client, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = pb.NewRegistrationClient(client).Register(ctx,
		&pb.RegisterRequest{Version: pb.Version, Endpoint: name, ResourceName: resource})
	return err
}
