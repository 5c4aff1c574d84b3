// SPDX-License-Identifier: BSD-3-Clause
//! The `sev` crate as a program: verify cases from a directory, or measure how fast it verifies one.
//!
//! A case is a directory with `report.bin` or `extended.bin` (a report with a certificate table), `vek.der`
//! unless the table brings it, and the trusted `ask.der` and `ark.der`. The root is always the case's
//! `ark.der`, never one that the table brings.

use std::convert::TryInto;
use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sev::certs::snp::{ca, Certificate, Chain, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::{CertTableEntry, CertType};
use sev::parser::ByteParser;

const REPORT_SIZE: usize = 0x4A0;

struct Case {
    report: Vec<u8>,
    vek: Vec<u8>,
    ask: Vec<u8>,
    ark: Vec<u8>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["verify", directory] => verify_all(Path::new(directory)),
        ["bench", directory, seconds] => bench(Path::new(directory), seconds),
        _ => Err(Error::other("usage: verify DIRECTORY | bench CASE SECONDS")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Print a line for each case: its name, a tab, and `accepted` or why it is refused.
fn verify_all(directory: &Path) -> Result<()> {
    let mut cases: Vec<PathBuf> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    cases.sort();
    for case in cases {
        let name = case
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // The crate indexes into what it is given: a panic refuses the case, and says so.
        let verdict = std::panic::catch_unwind(|| read_case(&case).and_then(|case| verify(&case)));
        match verdict {
            Ok(Ok(())) => println!("{name}\taccepted"),
            Ok(Err(error)) => println!("{name}\t{}", error.to_string().replace('\n', " ")),
            Err(_) => println!("{name}\tpanic"),
        }
    }
    Ok(())
}

fn read_case(case: &Path) -> Result<Case> {
    let (ask, ark) = (
        fs::read(case.join("ask.der"))?,
        fs::read(case.join("ark.der"))?,
    );
    let extended = case.join("extended.bin");
    if !extended.exists() {
        let (report, vek) = (
            fs::read(case.join("report.bin"))?,
            fs::read(case.join("vek.der"))?,
        );
        return Ok(Case {
            report,
            vek,
            ask,
            ark,
        });
    }
    let mut data = fs::read(extended)?;
    if data.len() <= REPORT_SIZE {
        return Err(Error::other("no certificate table"));
    }
    let mut table = data.split_off(REPORT_SIZE);
    let entries = CertTableEntry::vec_bytes_to_cert_table(&mut table)
        .map_err(|error| Error::other(format!("{error:?}")))?;
    let vek = entries
        .iter()
        .find(|entry| matches!(entry.cert_type, CertType::VCEK | CertType::VLEK))
        .ok_or_else(|| Error::other("no VEK in the certificate table"))?;
    Ok(Case {
        report: data,
        vek: vek.data().to_vec(),
        ask,
        ark,
    })
}

/// Parse everything and verify the chain and the report.
fn verify(case: &Case) -> Result<()> {
    let raw: &[u8; REPORT_SIZE] = case
        .report
        .as_slice()
        .try_into()
        .map_err(|_| Error::other("wrong length of the report"))?;
    let report = AttestationReport::from_bytes(raw)?;
    let chain = Chain {
        ca: ca::Chain::from_der(&case.ark, &case.ask)?,
        vek: Certificate::from_der(&case.vek)?,
    };
    (&chain, &report).verify()
}

/// Print how often a case can be verified in a second of this process's CPU time.
fn bench(directory: &Path, seconds: &str) -> Result<()> {
    let seconds: f64 = seconds.parse().map_err(Error::other)?;
    let case = read_case(directory)?;
    verify(&case)?;
    let certificate = Certificate::from_der(&case.vek)?;
    // What is trusted is parsed once, as a service would.
    let trusted = ca::Chain::from_der(&case.ark, &case.ask)?;
    let full = rate(seconds, || {
        let raw: &[u8; REPORT_SIZE] = case.report.as_slice().try_into().map_err(Error::other)?;
        let chain = Chain {
            ca: trusted.clone(),
            vek: Certificate::from_der(&case.vek)?,
        };
        (&chain, &AttestationReport::from_bytes(raw)?).verify()
    })?;
    let cached = rate(seconds, || {
        let raw: &[u8; REPORT_SIZE] = case.report.as_slice().try_into().map_err(Error::other)?;
        (&certificate, &AttestationReport::from_bytes(raw)?).verify()
    })?;
    println!("{{\"full\": {full:.1}, \"cached\": {cached:.1}}}");
    Ok(())
}

fn rate(seconds: f64, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let (start, mut count) = (cpu_seconds(), 0u32);
    loop {
        for _ in 0..20 {
            call()?;
        }
        count += 20;
        let spent = cpu_seconds() - start;
        if spent >= seconds {
            return Ok(f64::from(count) / spent);
        }
    }
}

fn cpu_seconds() -> f64 {
    // SAFETY: the call only writes to the structure, which is valid as zeros.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
