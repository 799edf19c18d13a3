// A `command` program in AssemblyScript, over WASI preview 1 alone. By the path of the request:
//   /hello        who asked: the variables REQUEST_METHOD and WISP_TENANT
//   /upper        the body, its small ASCII letters made large
//   /keep/<name>  the body, written to /tmp/<name> and read back from there
//   /list         the names in /tmp after three were made, one removed and one linked to

// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "environ_sizes_get")
declare function environ_sizes_get(count: usize, size: usize): u32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "environ_get")
declare function environ_get(pointers: usize, buffer: usize): u32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_read")
declare function fd_read(fd: u32, vectors: usize, count: usize, read: usize): u32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: u32, vectors: usize, count: usize, written: usize): u32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_close")
declare function fd_close(fd: u32): u32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_readdir")
declare function fd_readdir(fd: u32, buffer: usize, size: usize, cookie: u64, used: usize): u32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "path_open")
declare function path_open(
  fd: u32, lookup: u32, path: usize, length: usize, oflags: u32, rights: u64, inheriting: u64, flags: u32, out: usize
): u32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "path_unlink_file")
declare function path_unlink_file(fd: u32, path: usize, length: usize): u32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "path_symlink")
declare function path_symlink(target: usize, targetLength: usize, fd: u32, path: usize, length: usize): u32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "proc_exit")
declare function proc_exit(code: u32): void;

const STDIN: u32 = 0, STDOUT: u32 = 1, STDERR: u32 = 2, ROOT: u32 = 3;
const CREAT: u32 = 1, DIRECTORY: u32 = 2;
const READ: u64 = 1 << 1, WRITE: u64 = 1 << 6, READDIR: u64 = 1 << 14;

function must(errno: u32, what: string): void {
  if (errno == 0) return;
  write(STDERR, bytes(what + ": errno " + errno.toString() + "\n"));
  proc_exit(1);
}

function bytes(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

function write(fd: u32, data: ArrayBuffer): void {
  const vector = new StaticArray<usize>(2);
  const written = new StaticArray<usize>(1);
  let at: usize = 0;
  while (at < <usize>data.byteLength) {
    vector[0] = changetype<usize>(data) + at;
    vector[1] = <usize>data.byteLength - at;
    if (fd_write(fd, changetype<usize>(vector), 1, changetype<usize>(written)) != 0) proc_exit(2);
    at += written[0];
  }
}

function readAll(fd: u32): ArrayBuffer {
  let data = new ArrayBuffer(0);
  const chunk = new ArrayBuffer(4096);
  const vector = new StaticArray<usize>(2);
  const got = new StaticArray<usize>(1);
  while (true) {
    vector[0] = changetype<usize>(chunk);
    vector[1] = 4096;
    must(fd_read(fd, changetype<usize>(vector), 1, changetype<usize>(got)), "reading");
    if (got[0] == 0) return data;
    const more = new ArrayBuffer(data.byteLength + <i32>got[0]);
    memory.copy(changetype<usize>(more), changetype<usize>(data), data.byteLength);
    memory.copy(changetype<usize>(more) + data.byteLength, changetype<usize>(chunk), got[0]);
    data = more;
  }
}

function variable(name: string): string {
  const sizes = new StaticArray<usize>(2);
  environ_sizes_get(changetype<usize>(sizes), changetype<usize>(sizes) + sizeof<usize>());
  const pointers = new ArrayBuffer(<i32>sizes[0] * 4);
  const buffer = new ArrayBuffer(<i32>sizes[1]);
  environ_get(changetype<usize>(pointers), changetype<usize>(buffer));
  const found = String.UTF8.decode(buffer).split("\0");
  for (let i = 0; i < found.length; i++) {
    if (found[i].startsWith(name + "=")) return found[i].substring(name.length + 1);
  }
  return "";
}

function open(path: string, oflags: u32, rights: u64): u32 {
  const name = bytes(path);
  const fd = new StaticArray<u32>(1);
  must(
    path_open(
      ROOT, 1, changetype<usize>(name), name.byteLength, oflags, rights, 0, 0, changetype<usize>(fd)
    ),
    "opening " + path
  );
  return fd[0];
}

function keep(path: string, data: ArrayBuffer): ArrayBuffer {
  const written = open(path, CREAT, WRITE);
  write(written, data);
  fd_close(written);
  const fd = open(path, 0, READ);
  const kept = readAll(fd);
  fd_close(fd);
  return kept;
}

function list(): string {
  const data = bytes("x");
  for (let i = 0; i < 3; i++) keep("tmp/" + i.toString(), data);
  const gone = bytes("tmp/1"), target = bytes("0"), link = bytes("tmp/link");
  must(path_unlink_file(ROOT, changetype<usize>(gone), gone.byteLength), "unlinking");
  must(
    path_symlink(changetype<usize>(target), target.byteLength, ROOT, changetype<usize>(link), link.byteLength),
    "linking"
  );
  const fd = open("tmp", DIRECTORY, READDIR);
  const buffer = new ArrayBuffer(1024);
  const used = new StaticArray<usize>(1);
  must(fd_readdir(fd, changetype<usize>(buffer), 1024, 0, changetype<usize>(used)), "listing");
  let names = "";
  for (let at: usize = 0; at + 24 <= used[0]; ) {
    const length = load<u32>(changetype<usize>(buffer) + at, 16);
    names += String.UTF8.decodeUnsafe(changetype<usize>(buffer) + at + 24, length) + "\n";
    at += 24 + length;
  }
  return names;
}

function upper(data: ArrayBuffer): ArrayBuffer {
  const at = changetype<usize>(data);
  for (let i: usize = 0; i < <usize>data.byteLength; i++) {
    const letter = load<u8>(at + i);
    if (letter >= 97 && letter <= 122) store<u8>(at + i, letter - 32);
  }
  return data;
}

export function _start(): void {
  const path = variable("PATH_INFO");
  let answer = bytes("nothing here\n");
  let status = "404 Not Found";
  if (path == "/hello") {
    answer = bytes(variable("REQUEST_METHOD") + " from " + variable("WISP_TENANT") + "\n");
    status = "200 OK";
  } else if (path == "/upper") {
    answer = upper(readAll(STDIN));
    status = "200 OK";
  } else if (path.startsWith("/keep/")) {
    answer = keep("tmp/" + path.substring(6), readAll(STDIN));
    status = "200 OK";
  } else if (path == "/list") {
    answer = bytes(list());
    status = "200 OK";
  }
  write(STDOUT, bytes("Status: " + status + "\nContent-Type: text/plain\n\n"));
  write(STDOUT, answer);
}
