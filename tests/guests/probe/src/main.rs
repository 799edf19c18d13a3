//! An ordinary program of Rust's standard library as a `command` guest (CGI variables, body on stdin, head and body on
//! stdout): it knows nothing of wisp. Each first part of the path tries one thing, and the answer says how it went.
//!
//! | path | does |
//! |---|---|
//! | /env | lists the environment, sorted, `NAME=value` lines |
//! | /echo | answers the body |
//! | /read/FILE · /list/DIR · /stat/FILE | opens under `/` |
//! | /write/FILE · /append/FILE | writes the body, reads it back · appends it |
//! | /remove/FILE | unlinks |
//! | /clock | seconds since the epoch, and nanoseconds that a monotonic clock moved over a short loop |
//! | /sleep/MS | sleeps |
//! | /random | two hash seeds of the standard library, which must differ between requests |
//! | /stderr/BYTES | writes that many bytes to stderr in lines of 80 |
//! | /stdout/BYTES | answers with that many bytes |
//! | /memory/MIB | allocates and touches |
//! | /exit/CODE · /panic | ends |
//! | /silent · /headless | prints nothing · prints a body without a head |
//! | /cookies | answers with a repeated header |
//!
//! A refused operation is answered with 403 (not permitted), 404 (not found) or 500, and the error's kind.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, process, thread};

fn main() {
    let path = env::var("PATH_INFO").unwrap_or_default();
    let path = path.trim_start_matches('/');
    let (verb, rest) = path.split_once('/').unwrap_or((path, ""));
    let number = rest.parse().unwrap_or(0);
    match verb {
        "panic" => panic!("as asked"),
        "exit" => process::exit(number as i32),
        "silent" => {}
        "headless" => print!("no head here"),
        "cookies" => print!("Status: 201 Created\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"),
        _ => match answer(verb, rest, number) {
            Ok(body) => respond(200, &body),
            Err(error) => {
                let status = match error.kind() {
                    io::ErrorKind::PermissionDenied => 403,
                    io::ErrorKind::NotFound => 404,
                    _ => 500,
                };
                respond(status, format!("{:?}\n", error.kind()).as_bytes());
            }
        },
    }
}

fn answer(verb: &str, rest: &str, number: usize) -> io::Result<Vec<u8>> {
    let file = format!("/{rest}");
    match verb {
        "env" => {
            let mut lines: Vec<String> = env::vars()
                .map(|(name, value)| format!("{name}={value}\n"))
                .collect();
            lines.sort();
            Ok(lines.concat().into_bytes())
        }
        "echo" => stdin(),
        "read" => fs::read(file),
        "stat" => fs::metadata(file)
            .map(|found| format!("{} {}\n", found.is_dir(), found.len()).into_bytes()),
        "list" => {
            let names: io::Result<Vec<_>> = fs::read_dir(file)?
                .map(|entry| entry.map(|e| e.file_name()))
                .collect();
            let mut lines: Vec<String> = names?
                .iter()
                .map(|name| name.to_string_lossy().into_owned() + "\n")
                .collect();
            lines.sort();
            Ok(lines.concat().into_bytes())
        }
        "write" => fs::write(&file, stdin()?).and_then(|()| fs::read(file)),
        "append" => {
            fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(file)?
                .write_all(&stdin()?)?;
            Ok(Vec::new())
        }
        "remove" => fs::remove_file(file).map(|()| Vec::new()),
        "clock" => {
            let start = Instant::now();
            let sum = (0..100_000_u64).fold(0, |sum, turn| std::hint::black_box(sum ^ turn));
            let epoch = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_err(io::Error::other)?;
            Ok(format!(
                "{} {} {}\n",
                epoch.as_secs(),
                start.elapsed().as_nanos(),
                sum & 1
            )
            .into_bytes())
        }
        "sleep" => {
            thread::sleep(Duration::from_millis(number as u64));
            Ok(b"slept\n".to_vec())
        }
        "random" => {
            let seed = || RandomState::new().build_hasher().finish();
            Ok(format!("{:016x}\n{:016x}\n", seed(), seed()).into_bytes())
        }
        "stderr" => {
            let line = [b'.'; 79];
            for _ in 0..number / 80 {
                io::stderr().write_all(&line)?;
                io::stderr().write_all(b"\n")?;
            }
            Ok(Vec::new())
        }
        "stdout" => Ok(vec![b'x'; number]),
        "memory" => {
            let mut block = vec![1_u8; number << 20];
            block
                .iter_mut()
                .step_by(4096)
                .for_each(|byte| *byte = std::hint::black_box(2));
            Ok(format!("{}\n", std::hint::black_box(&block).len()).into_bytes())
        }
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn stdin() -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    io::stdin().read_to_end(&mut body)?;
    Ok(body)
}

fn respond(status: u16, body: &[u8]) {
    let mut output =
        format!("Status: {status}\nContent-Type: text/plain; charset=utf-8\n\n").into_bytes();
    output.extend_from_slice(body);
    io::stdout()
        .write_all(&output)
        .and_then(|()| io::stdout().flush())
        .expect("stdout takes the answer");
}
