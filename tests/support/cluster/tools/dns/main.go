// SPDX-License-Identifier: BSD-3-Clause

// The cluster's DNS: names of services and, for headless ones, of their endpoints. Nothing else has a name
// here, as nothing else can be reached.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	zone    = ".svc.cluster.local."
)

type object struct {
	Metadata struct {
		Name, Namespace string
		Labels          map[string]string
	}
	Spec      struct{ ClusterIP string }
	Endpoints []struct {
		Addresses  []string
		Hostname   string
		Conditions struct{ Ready *bool }
	}
}

var (
	known  atomic.Pointer[map[string][]netip.Addr]
	client *http.Client
)

func list(path string) ([]object, error) {
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return nil, err
	}
	server := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	request, err := http.NewRequest(http.MethodGet, "https://"+server+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, answer.Status)
	}
	var found struct{ Items []object }
	return found.Items, json.NewDecoder(answer.Body).Decode(&found)
}

func look() error {
	services, err := list("/api/v1/services")
	if err != nil {
		return err
	}
	slices, err := list("/apis/discovery.k8s.io/v1/endpointslices")
	if err != nil {
		return err
	}
	names := map[string][]netip.Addr{}
	headless := map[string]bool{}
	for _, service := range services {
		name := service.Metadata.Name + "." + service.Metadata.Namespace + zone
		names[name] = nil
		headless[name] = service.Spec.ClusterIP == "None"
		if address, err := netip.ParseAddr(service.Spec.ClusterIP); err == nil {
			names[name] = []netip.Addr{address}
		}
	}
	for _, slice := range slices {
		name := slice.Metadata.Labels["kubernetes.io/service-name"] + "." + slice.Metadata.Namespace + zone
		for _, endpoint := range slice.Endpoints {
			if !headless[name] || endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready {
				continue
			}
			for _, text := range endpoint.Addresses {
				if address, err := netip.ParseAddr(text); err == nil {
					names[name] = append(names[name], address)
					if endpoint.Hostname != "" {
						names[endpoint.Hostname+"."+name] = []netip.Addr{address}
					}
				}
			}
		}
	}
	known.Store(&names)
	return nil
}

func answer(query []byte) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil {
		return nil, err
	}
	question, err := parser.Question()
	if err != nil {
		return nil, err
	}
	name := strings.ToLower(question.Name.String())
	addresses, found := (*known.Load())[name]
	header.Response, header.Authoritative, header.RecursionAvailable = true, true, true
	header.AuthenticData, header.RCode = false, dnsmessage.RCodeSuccess
	if !found {
		header.RCode = dnsmessage.RCodeNameError
	}
	builder := dnsmessage.NewBuilder(nil, header)
	builder.EnableCompression()
	if err := builder.StartQuestions(); err != nil {
		return nil, err
	}
	if err := builder.Question(question); err != nil {
		return nil, err
	}
	if err := builder.StartAnswers(); err != nil {
		return nil, err
	}
	head := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 1}
	for _, address := range addresses {
		if question.Type == dnsmessage.TypeA && address.Is4() {
			if err := builder.AResource(head, dnsmessage.AResource{A: address.As4()}); err != nil {
				return nil, err
			}
		}
	}
	return builder.Finish()
}

func udp(at net.PacketConn) {
	buffer := make([]byte, 4096)
	for {
		size, from, err := at.ReadFrom(buffer)
		if err != nil {
			continue
		}
		if said, err := answer(buffer[:size]); err == nil {
			at.WriteTo(said, from)
		}
	}
}

func tcp(connection net.Conn) {
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(10 * time.Second))
	for {
		length := make([]byte, 2)
		if _, err := readFull(connection, length); err != nil {
			return
		}
		query := make([]byte, int(length[0])<<8|int(length[1]))
		if _, err := readFull(connection, query); err != nil {
			return
		}
		said, err := answer(query)
		if err != nil {
			return
		}
		connection.Write(append([]byte{byte(len(said) >> 8), byte(len(said))}, said...))
	}
}

func readFull(connection net.Conn, buffer []byte) (int, error) {
	read := 0
	for read < len(buffer) {
		size, err := connection.Read(buffer[read:])
		if err != nil {
			return read, err
		}
		read += size
	}
	return read, nil
}

func must(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func main() {
	certificate, err := os.ReadFile(account + "ca.crt")
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	client = &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
	}
	for err = look(); err != nil; err = look() {
		fmt.Println(err)
		time.Sleep(time.Second)
	}
	packets, err := net.ListenPacket("udp", ":5353")
	must(err)
	streams, err := net.Listen("tcp", ":5353")
	must(err)
	go udp(packets)
	go func() {
		for {
			if connection, err := streams.Accept(); err == nil {
				go tcp(connection)
			}
		}
	}()
	for {
		time.Sleep(500 * time.Millisecond)
		if err := look(); err != nil {
			fmt.Println(err)
		}
	}
}
