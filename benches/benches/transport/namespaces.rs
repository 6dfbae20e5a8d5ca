//! Network namespaces, one for each node, and a proxy between them that delays and loses packets: of
//! QUIC and TCP alike, because it carries IP.
//!
//! Needs the rights to make namespaces and TUN devices, and the program `ip`.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use benches::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The device in every namespace, and the largest packet, as on an Ethernet.
const DEVICE: &str = "raft0";
const MTU: usize = 1500;
/// How many packets may wait in the proxy for each other namespace: half a second of 100 Mbit/s.
const MAX_WAITING: usize = 4096;
/// How long the proxy waits at most before it looks whether it is to stop.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Sets the name and the kind of a TUN device (linux/if_tun.h).
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const IFF_TUN: u16 = 1;
const IFF_NO_PI: u16 = 0x1000;

/// `struct ifreq` as TUNSETIFF takes it.
#[repr(C)]
struct DeviceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// What happens to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weather {
    /// How long each is on its way, one way.
    pub(super) delay: Duration,
    /// How many of 10,000 are lost.
    pub(super) lost_per_10_000: u32,
}

type Task = Box<dyn FnOnce() + Send>;

/// Namespaces `10.77.0.1`, `10.77.0.2`, …, connected until this is dropped.
pub(super) struct Network {
    namespaces: Vec<Sender<Task>>,
    weather: Arc<Mutex<Weather>>,
    is_over: Arc<AtomicBool>,
    proxy: Option<JoinHandle<()>>,
}

impl Network {
    /// # Errors
    /// A namespace or a device cannot be made.
    pub(super) fn new(count: u8) -> Result<Self, Failure> {
        let (mut namespaces, mut devices) = (Vec::new(), Vec::new());
        for at in 0..count {
            let (tasks, to_do) = channel();
            let (made, device) = channel();
            thread::spawn(move || live_in_namespace(address(at), &made, &to_do));
            devices.push(device.recv()??);
            namespaces.push(tasks);
        }
        let weather = Arc::new(Mutex::new(Weather {
            delay: Duration::ZERO,
            lost_per_10_000: 0,
        }));
        let is_over = Arc::new(AtomicBool::new(false));
        let proxy = Proxy {
            waiting: devices.iter().map(|_| VecDeque::new()).collect(),
            devices,
            weather: Arc::clone(&weather),
            is_over: Arc::clone(&is_over),
            chance: 0x9E37_79B9_7F4A_7C15,
        };
        Ok(Self {
            namespaces,
            weather,
            is_over,
            proxy: Some(thread::spawn(move || proxy.run())),
        })
    }

    /// From now on.
    pub(super) fn set_weather(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// Does something in a namespace: sockets that it opens and threads that it starts stay there.
    pub(super) fn within<T: Send + 'static>(
        &self,
        at: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (done, result) = channel();
        let task: Task = Box::new(move || {
            // Whoever asked waits for it.
            let _ = done.send(work());
        });
        self.namespaces[at]
            .send(task)
            .expect("the namespace's thread lives as long as this");
        result.recv().expect("what runs in a namespace ends")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(proxy) = self.proxy.take() {
            let _ = proxy.join();
        }
    }
}

/// The address of a namespace.
pub(super) fn address(at: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, at + 1)
}

/// A thread's life: makes a namespace of its own, tells the device in it, and does what it is given.
fn live_in_namespace(
    address: Ipv4Addr,
    made: &Sender<Result<File, Failure>>,
    to_do: &Receiver<Task>,
) {
    let device = enter_namespace(address);
    let is_sound = device.is_ok();
    if made.send(device).is_err() || !is_sound {
        return;
    }
    while let Ok(task) = to_do.recv() {
        task();
    }
}

#[allow(
    unsafe_code,
    reason = "no library at hand wraps the system calls for namespaces of threads and TUN devices"
)]
fn enter_namespace(address: Ipv4Addr) -> Result<File, Failure> {
    // SAFETY: only this thread moves, and it has no socket yet; nothing relies on its file
    // descriptors or memory being shared in another way than before, which stays as it is.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/net/tun")?;
    let mut request = DeviceRequest {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    request.name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    // SAFETY: the opcode is the kernel's, and takes a `struct ifreq`, whose 40 bytes this has.
    unsafe { ioctl(&device, Setter::<TUNSETIFF, DeviceRequest>::new(request))? };
    let (cidr, mtu) = (format!("{address}/24"), MTU.to_string());
    ip(&["link", "set", "lo", "up"])?;
    ip(&["addr", "add", &cidr, "dev", DEVICE])?;
    ip(&["link", "set", DEVICE, "mtu", &mtu, "up"])?;
    Ok(device)
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let output = Command::new("ip").args(arguments).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}

/// Carries packets from device to device.
struct Proxy {
    devices: Vec<File>,
    /// For each device, what is on its way to it and when it arrives.
    waiting: Vec<VecDeque<(Instant, Vec<u8>)>>,
    weather: Arc<Mutex<Weather>>,
    is_over: Arc<AtomicBool>,
    chance: u64,
}

impl Proxy {
    fn run(mut self) {
        let mut buffer = vec![0; MTU];
        while !self.is_over.load(Ordering::Relaxed) {
            self.await_packets();
            let weather = *self.weather.lock().unwrap_or_else(PoisonError::into_inner);
            for from in 0..self.devices.len() {
                self.take_from(from, weather, &mut buffer);
            }
            self.hand_out();
        }
    }

    /// Until there is something to read, or something on its way arrives.
    fn await_packets(&self) {
        let arrivals = self.waiting.iter().filter_map(|queue| queue.front());
        let next = arrivals.map(|(at, _)| *at).min();
        let pause = next.map_or(LOOK_AGAIN, |at| {
            at.saturating_duration_since(Instant::now()).min(LOOK_AGAIN)
        });
        let pause = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(pause.subsec_nanos()),
        };
        let mut polled: Vec<_> = self
            .devices
            .iter()
            .map(|device| PollFd::new(device, PollFlags::IN))
            .collect();
        // Whatever ended it, everything is looked at.
        let _ = poll(&mut polled, Some(&pause));
    }

    fn take_from(&mut self, from: usize, weather: Weather, buffer: &mut [u8]) {
        loop {
            let length = match self.devices[from].read(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a TUN device cannot be read: {error}"),
            };
            let packet = &buffer[..length];
            let is_lost = self.draw(10_000) < weather.lost_per_10_000;
            // An IPv4 header has the destination at byte 16; anything else is no packet of ours.
            let to = match packet {
                [first, ..] if first >> 4 == 4 && length >= 20 => usize::from(packet[19]),
                _ => continue,
            };
            if is_lost || to == 0 || to > self.devices.len() {
                continue;
            }
            let queue = &mut self.waiting[to - 1];
            if queue.len() < MAX_WAITING {
                queue.push_back((Instant::now() + weather.delay, packet.to_vec()));
            }
        }
    }

    fn hand_out(&mut self) {
        let now = Instant::now();
        for (device, queue) in self.devices.iter_mut().zip(&mut self.waiting) {
            while queue.front().is_some_and(|(at, _)| *at <= now) {
                let Some((_, packet)) = queue.pop_front() else {
                    break;
                };
                // A device that has no room loses it, as a router would.
                let _ = device.write(&packet);
            }
        }
    }

    /// A number below the bound (xorshift: loss needs no better chance).
    fn draw(&mut self, bound: u64) -> u32 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance % bound) as u32
    }
}
