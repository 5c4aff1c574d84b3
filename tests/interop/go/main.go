// SPDX-License-Identifier: BSD-3-Clause

// Command go-peer is go-sev-guest as a program: it verifies cases from a directory, measures how fast it
// verifies one, or makes a case with its own test signer.
//
// A case is a directory with report.bin or extended.bin (a report with a certificate table), vek.der unless
// the table brings it, the trusted ask.der and ark.der, and text files with the product line, the kind of
// endorsement key and the time in Unix seconds. Nothing is fetched.
package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	signing "github.com/google/go-sev-guest/testing"
	"github.com/google/go-sev-guest/validate"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	"github.com/google/logger"
)

type item struct {
	report, extended, vek []byte
	vlek                  bool
	options               verify.Options
}

func main() {
	logger.Init("go-peer", false, false, io.Discard)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 2 && arguments[0] == "verify":
		return verifyAll(arguments[1])
	case len(arguments) == 3 && arguments[0] == "bench":
		return bench(arguments[1], arguments[2])
	case len(arguments) == 4 && arguments[0] == "sign":
		return sign(arguments[1], arguments[2], arguments[3])
	}
	return errors.New("usage: verify DIRECTORY | bench CASE SECONDS | sign PRODUCT KIND DIRECTORY")
}

// verifyAll prints a line for each case: its name, a tab, and "accepted" or why it is refused.
func verifyAll(directory string) error {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		verdict := "accepted"
		if err := verifyOne(filepath.Join(directory, entry.Name())); err != nil {
			verdict = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Printf("%s\t%s\n", entry.Name(), verdict)
	}
	return nil
}

func verifyOne(directory string) (err error) {
	// A panic refuses the case, and says so.
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	one, err := readItem(directory)
	if err != nil {
		return err
	}
	attestation, err := one.attestation()
	if err != nil {
		return err
	}
	if err := verify.SnpAttestation(attestation, &one.options); err != nil {
		return err
	}
	return validate.SnpAttestation(attestation, &validate.Options{GuestPolicy: abi.SnpPolicy{SMT: true}})
}

func readItem(directory string) (*item, error) {
	var failed error
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(directory, name))
		if err != nil && failed == nil {
			failed = err
		}
		return data
	}
	text := func(name string) string { return strings.TrimSpace(string(read(name))) }
	one := &item{vlek: text("kind") == "VLEK"}
	if _, err := os.Stat(filepath.Join(directory, "extended.bin")); err == nil {
		one.extended = read("extended.bin")
	} else {
		one.report, one.vek = read("report.bin"), read("vek.der")
	}
	line, at, ask, ark := text("line"), text("at"), read("ask.der"), read("ark.der")
	if failed != nil {
		return nil, failed
	}
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return nil, err
	}
	roots, err := trusted(line, ask, ark, one.vlek)
	if err != nil {
		return nil, err
	}
	one.options = verify.Options{
		DisableCertFetching: true,
		Now:                 time.Unix(seconds, 0),
		TrustedRoots:        map[string][]*trust.AMDRootCerts{line: {roots}},
	}
	return one, nil
}

func trusted(line string, ask, ark []byte, vlek bool) (*trust.AMDRootCerts, error) {
	intermediate, err := x509.ParseCertificate(ask)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(ark)
	if err != nil {
		return nil, err
	}
	roots := trust.AMDRootCertsProduct(line)
	roots.ProductCerts = &trust.ProductCerts{Ark: root, Ask: intermediate}
	if vlek {
		// The ASVK of a VLEK is never filled in from a chain.
		roots.ProductCerts = &trust.ProductCerts{Ark: root, Asvk: intermediate}
	}
	return roots, nil
}

func (one *item) attestation() (*spb.Attestation, error) {
	if one.extended != nil {
		return abi.ReportCertsToProto(one.extended)
	}
	report, err := abi.ReportToProto(one.report)
	if err != nil {
		return nil, err
	}
	chain := &spb.CertificateChain{Extras: map[string][]byte{}}
	if one.vlek {
		chain.VlekCert = one.vek
	} else {
		chain.VcekCert = one.vek
	}
	return &spb.Attestation{Report: report, CertificateChain: chain}, nil
}

// bench prints how often a case can be verified in a second of this process's CPU time.
func bench(directory, seconds string) error {
	limit, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return err
	}
	one, err := readItem(directory)
	if err != nil {
		return err
	}
	vek, err := x509.ParseCertificate(one.vek)
	if err != nil {
		return err
	}
	full, err := rate(limit, func() error {
		attestation, err := one.attestation()
		if err != nil {
			return err
		}
		return verify.SnpAttestation(attestation, &one.options)
	})
	if err != nil {
		return err
	}
	cached, err := rate(limit, func() error { return verify.SnpReportSignature(one.report, vek) })
	if err != nil {
		return err
	}
	fmt.Printf("{\"full\": %.1f, \"cached\": %.1f}\n", full, cached)
	return nil
}

func rate(seconds float64, call func() error) (float64, error) {
	start, count := cpuSeconds(), 0
	for {
		for range 20 {
			if err := call(); err != nil {
				return 0, err
			}
		}
		count += 20
		if spent := cpuSeconds() - start; spent >= seconds {
			return float64(count) / spent, nil
		}
	}
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	seconds := func(value syscall.Timeval) float64 { return float64(value.Sec) + float64(value.Usec)/1e6 }
	return seconds(usage.Utime) + seconds(usage.Stime)
}

// sign reads an unsigned report from the directory and writes it signed, with the certificates that the test
// signer makes for its chip, firmware and product.
func sign(product, kind, directory string) error {
	unsigned, err := os.ReadFile(filepath.Join(directory, "unsigned.bin"))
	if err != nil {
		return err
	}
	report, err := abi.ReportToProto(unsigned)
	if err != nil {
		return err
	}
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	builder := &signing.AmdSignerBuilder{
		Keys: signing.DefaultAmdKeys(), ProductName: product,
		ArkCreationTime: created, AskCreationTime: created, AsvkCreationTime: created,
		VcekCreationTime: created, VlekCreationTime: created,
	}
	line, _, _ := strings.Cut(product, "-")
	parts := kds.DecomposeTCBVersion(kds.TCBVersion(report.GetReportedTcb()))
	// By itself the signer adds a serial number to the names, and firmware zero: AMD does neither.
	name := func(commonName string) *pkix.Name {
		return &pkix.Name{
			Country: []string{"US"}, Organization: []string{"Advanced Micro Devices"},
			OrganizationalUnit: []string{"Engineering"}, Locality: []string{"Santa Clara"},
			Province: []string{"CA"}, CommonName: commonName,
		}
	}
	builder.ArkCustom = signing.CertOverride{Subject: name("ARK-" + line), Issuer: name("ARK-" + line)}
	builder.AskCustom = signing.CertOverride{Subject: name("SEV-" + line)}
	builder.AsvkCustom = signing.CertOverride{Subject: name("SEV-VLEK-" + line)}
	builder.VcekCustom = signing.CertOverride{
		Subject:    name("SEV-VCEK"),
		Extensions: signing.CustomExtensions(parts, report.GetChipId(), "", product),
	}
	builder.VlekCustom = signing.CertOverride{
		Subject:    name("SEV-VLEK"),
		Extensions: signing.CustomExtensions(parts, nil, "go-sev-guest", product),
	}
	signer, err := builder.TestOnlyCertChain()
	if err != nil {
		return err
	}
	r, s, err := signer.Sign(abi.SignedComponent(unsigned))
	if err != nil {
		return err
	}
	if err := abi.SetSignature(r, s, unsigned); err != nil {
		return err
	}
	vek, ask := signer.Vcek, signer.Ask
	if kind == "VLEK" {
		vek, ask = signer.Vlek, signer.Asvk
	}
	for name, data := range map[string][]byte{
		"report.bin": unsigned, "vek.der": vek.Raw, "ask.der": ask.Raw, "ark.der": signer.Ark.Raw,
	} {
		if err := os.WriteFile(filepath.Join(directory, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
