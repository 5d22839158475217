//! Connections by rdma_cm: event channel, communication identifier, queue pair.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{SockAddr, SockAddrStorage};

use super::{
    CallError, CompletionQueue, Domain, Registration, errno, minus_one, non_null, set_nonblocking, wait_readable,
};
use crate::transport::Part;

/// `RDMA_OPTION_ID` and `RDMA_OPTION_ID_ACK_TIMEOUT` of rdma_cma.h, whose anonymous enums `rdma-sys` leaves out.
const OPTION_ID: i32 = 0;
const OPTION_ACK_TIMEOUT: i32 = 3;

/// Where events of connections arrive.
pub(in crate::transport) struct EventChannel(NonNull<rdma_sys::rdma_event_channel>);

// SAFETY: the channel is a file descriptor; librdmacm may be called from any thread.
unsafe impl Send for EventChannel {}
// SAFETY: as above.
unsafe impl Sync for EventChannel {}

/// What happened to a connection; the numbers of `rdma_cm_event_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum EventKind {
    AddressResolved,
    RouteResolved,
    Request,
    Rejected,
    Established,
    Disconnected,
    /// Any other: all of them mean that the connection is not to be had, or lost.
    Failed(u32),
}

/// An event, already acknowledged.
pub(in crate::transport) struct Event {
    pub kind: EventKind,
    /// 0, a negative `errno`, or the reason of a rejection.
    pub status: i32,
    /// Names the id it is about: [`CmId::name`].
    pub about: usize,
    /// The connection that a request asks for.
    pub request: Option<CmId>,
    /// What the peer sent along, padded with zeros.
    pub data: Vec<u8>,
    /// Reads in flight that a request wants to have.
    pub reads_in: u8,
}

impl EventChannel {
    pub fn new() -> Result<Arc<Self>, CallError> {
        // SAFETY: no arguments.
        let raw = non_null("rdma_create_event_channel", unsafe { rdma_sys::rdma_create_event_channel() })?;
        let channel = Self(raw);
        set_nonblocking(channel.as_fd())?;
        Ok(Arc::new(channel))
    }

    /// The next event, if one is there.
    pub fn next(self: &Arc<Self>) -> Result<Option<Event>, CallError> {
        use rdma_sys::rdma_cm_event_type as t;
        let mut raw = null_mut();
        // SAFETY: the channel is alive and does not block.
        let got = unsafe { rdma_sys::rdma_get_cm_event(self.0.as_ptr(), &mut raw) };
        if let Err(e) = minus_one("rdma_get_cm_event", got) {
            return if e.source.kind() == std::io::ErrorKind::WouldBlock { Ok(None) } else { Err(e) };
        }
        // SAFETY: a successful call gives an event that lives until it is acknowledged. Of its union, `conn` is the part in use for
        // connected services, and any bytes are a value of it; its data has the length that it says.
        let event = unsafe {
            let e = &*raw;
            let kind = match e.event {
                t::RDMA_CM_EVENT_ADDR_RESOLVED => EventKind::AddressResolved,
                t::RDMA_CM_EVENT_ROUTE_RESOLVED => EventKind::RouteResolved,
                t::RDMA_CM_EVENT_CONNECT_REQUEST => EventKind::Request,
                t::RDMA_CM_EVENT_REJECTED => EventKind::Rejected,
                t::RDMA_CM_EVENT_ESTABLISHED => EventKind::Established,
                t::RDMA_CM_EVENT_DISCONNECTED => EventKind::Disconnected,
                other => EventKind::Failed(other),
            };
            let conn = &e.param.conn;
            let data = if conn.private_data.is_null() || conn.private_data_len == 0 {
                Vec::new()
            } else {
                std::slice::from_raw_parts(conn.private_data.cast::<u8>(), conn.private_data_len.into()).to_vec()
            };
            let request = (kind == EventKind::Request).then(|| NonNull::new(e.id)).flatten();
            Event {
                kind,
                status: e.status,
                about: e.id as usize,
                request: request.map(|raw| CmId::own(raw, self)),
                data,
                reads_in: conn.responder_resources,
            }
        };
        // SAFETY: everything was copied out. Acknowledged at once, for destroying an id waits for its events.
        minus_one("rdma_ack_cm_event", unsafe { rdma_sys::rdma_ack_cm_event(raw) })?;
        Ok(Some(event))
    }

    /// The next event, or nothing by the deadline.
    pub fn wait(self: &Arc<Self>, deadline: Instant) -> Result<Option<Event>, CallError> {
        loop {
            if let Some(event) = self.next()? {
                return Ok(Some(event));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            wait_readable(&[self.as_fd()], deadline);
        }
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the channel.
        unsafe { BorrowedFd::borrow_raw(self.0.as_ref().fd) }
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        // SAFETY: ids hold an `Arc` of their channel, so none is left.
        unsafe { rdma_sys::rdma_destroy_event_channel(self.0.as_ptr()) };
    }
}

/// What two ends agree on when they connect.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Parameters<'a> {
    /// Sent along; at most 56 bytes.
    pub data: &'a [u8],
    /// Reads in flight that this end answers.
    pub reads_in: u8,
    /// Reads in flight that this end asks for.
    pub reads_out: u8,
    /// Tries after the first. 7 is for ever on some devices.
    pub retries: u8,
}

impl Parameters<'_> {
    fn raw(&self) -> rdma_sys::rdma_conn_param {
        debug_assert!(self.data.len() <= 56);
        rdma_sys::rdma_conn_param {
            private_data: self.data.as_ptr().cast(),
            private_data_len: self.data.len() as u8,
            responder_resources: self.reads_in,
            initiator_depth: self.reads_out,
            flow_control: 0,
            retry_count: self.retries,
            rnr_retry_count: self.retries,
            srq: 0,
            qp_num: 0,
        }
    }
}

/// How large the queues of a connection are.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Sizes {
    /// Work requests.
    pub depth: usize,
    /// Scatter entries of one.
    pub scatter: usize,
}

/// One read. Without parts it moves nothing and needs no key: it asks whether the other side is there.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct ReadWork<'a> {
    /// Comes back with the completion.
    pub number: u64,
    /// First byte at the peer, by the name of its registration.
    pub remote: u64,
    /// The peer's key.
    pub key: u32,
    /// Where it goes, from where the call says.
    pub parts: &'a [Part],
    /// Whether success is reported; failure always is.
    pub signalled: bool,
}

/// A communication identifier: a listener, or a connection with its queue pair.
pub(in crate::transport) struct CmId {
    raw: NonNull<rdma_sys::rdma_cm_id>,
    has_queue: AtomicBool,
    queue_needs: Option<(Arc<Domain>, Arc<CompletionQueue>)>,
    _channel: Arc<EventChannel>,
}

// SAFETY: librdmacm and libibverbs are thread-safe. What is not (destroying the id while it is used) takes `&mut self` or `Drop`, and
// `destroy_queue` says what its callers see to.
unsafe impl Send for CmId {}
// SAFETY: as above.
unsafe impl Sync for CmId {}

impl CmId {
    pub fn new(channel: &Arc<EventChannel>) -> Result<Self, CallError> {
        let mut raw = null_mut();
        // SAFETY: the channel is alive, and kept so by the id.
        let result = unsafe {
            rdma_sys::rdma_create_id(channel.0.as_ptr(), &mut raw, null_mut(), rdma_sys::rdma_port_space::RDMA_PS_TCP)
        };
        minus_one("rdma_create_id", result)?;
        Ok(Self::own(non_null("rdma_create_id", raw)?, channel))
    }

    fn own(raw: NonNull<rdma_sys::rdma_cm_id>, channel: &Arc<EventChannel>) -> Self {
        Self { raw, has_queue: AtomicBool::new(false), queue_needs: None, _channel: channel.clone() }
    }

    /// What events call it.
    pub fn name(&self) -> usize {
        self.raw.as_ptr() as usize
    }

    /// The device it is bound to; null while it is not.
    pub fn context(&self) -> *mut rdma_sys::ibv_context {
        // SAFETY: the id is alive; the field changes only in calls made through `self`.
        unsafe { self.raw.as_ref().verbs }
    }

    pub fn bind(&self, address: SocketAddr) -> Result<(), CallError> {
        let address = SockAddr::from(address);
        // SAFETY: the library reads the address during the call.
        minus_one("rdma_bind_addr", unsafe {
            rdma_sys::rdma_bind_addr(self.raw.as_ptr(), address.as_ptr().cast_mut().cast())
        })
    }

    pub fn listen(&self, backlog: i32) -> Result<(), CallError> {
        // SAFETY: the id is alive.
        minus_one("rdma_listen", unsafe { rdma_sys::rdma_listen(self.raw.as_ptr(), backlog) })
    }

    /// The port that a bound id has.
    pub fn port(&self) -> u16 {
        // SAFETY: the id is alive.
        u16::from_be(unsafe { rdma_sys::rdma_get_src_port(self.raw.as_ptr()) })
    }

    /// Where the other end is.
    pub fn peer(&self) -> Option<SocketAddr> {
        // SAFETY: the id's address is a union with room for any address, and starts with its family.
        let storage = unsafe {
            let mut storage = SockAddrStorage::zeroed();
            let from = &raw const (*self.raw.as_ptr()).route.addr.dst_addr_union;
            *storage.view_as::<libc::sockaddr_storage>() = (*from).dst_storage;
            storage
        };
        let bytes = storage.size_of();
        // SAFETY: as many bytes as the storage has; the family says which of them count.
        unsafe { SockAddr::new(storage, bytes) }.as_socket()
    }

    pub fn resolve_address(&self, from: SocketAddr, to: SocketAddr, limit: Duration) -> Result<(), CallError> {
        let (from, to) = (SockAddr::from(from), SockAddr::from(to));
        // SAFETY: the library reads the addresses during the call.
        let result = unsafe {
            rdma_sys::rdma_resolve_addr(
                self.raw.as_ptr(),
                from.as_ptr().cast_mut().cast(),
                to.as_ptr().cast_mut().cast(),
                milliseconds(limit),
            )
        };
        minus_one("rdma_resolve_addr", result)
    }

    pub fn resolve_route(&self, limit: Duration) -> Result<(), CallError> {
        // SAFETY: the id is alive.
        minus_one("rdma_resolve_route", unsafe { rdma_sys::rdma_resolve_route(self.raw.as_ptr(), milliseconds(limit)) })
    }

    /// How long a try waits for its acknowledgement: 4.096 us x 2^`exponent`. To be said before connecting.
    pub fn set_ack_timeout(&self, mut exponent: u8) -> Result<(), CallError> {
        // SAFETY: the option is one byte, which the library reads during the call.
        let result = unsafe {
            rdma_sys::rdma_set_option(self.raw.as_ptr(), OPTION_ID, OPTION_ACK_TIMEOUT, (&raw mut exponent).cast(), 1)
        };
        minus_one("rdma_set_option", result)
    }

    /// Gives the id a queue pair whose completions go to `completions`.
    pub fn create_queue(
        &mut self,
        domain: &Arc<Domain>,
        completions: &Arc<CompletionQueue>,
        sizes: Sizes,
    ) -> Result<(), CallError> {
        // SAFETY: integers and pointers, for which zero is a value.
        let mut wanted: rdma_sys::ibv_qp_init_attr = unsafe { std::mem::zeroed() };
        wanted.send_cq = completions.raw();
        wanted.recv_cq = completions.raw();
        wanted.cap.max_send_wr = sizes.depth as u32;
        wanted.cap.max_send_sge = sizes.scatter as u32;
        wanted.cap.max_recv_wr = 1;
        wanted.cap.max_recv_sge = 1;
        wanted.qp_type = rdma_sys::ibv_qp_type::IBV_QPT_RC;
        // SAFETY: domain and queue are alive, and kept so by the id until the queue pair is gone.
        minus_one("rdma_create_qp", unsafe { rdma_sys::rdma_create_qp(self.raw.as_ptr(), domain.raw(), &mut wanted) })?;
        self.queue_needs = Some((domain.clone(), completions.clone()));
        self.has_queue.store(true, Ordering::Release);
        Ok(())
    }

    pub fn connect(&self, parameters: &Parameters<'_>) -> Result<(), CallError> {
        // SAFETY: the library copies the parameters and their data during the call.
        minus_one("rdma_connect", unsafe { rdma_sys::rdma_connect(self.raw.as_ptr(), &mut parameters.raw()) })
    }

    pub fn accept(&self, parameters: &Parameters<'_>) -> Result<(), CallError> {
        // SAFETY: as for `connect`.
        minus_one("rdma_accept", unsafe { rdma_sys::rdma_accept(self.raw.as_ptr(), &mut parameters.raw()) })
    }

    /// Says no to a request, and why.
    pub fn reject(&self, why: u8) -> Result<(), CallError> {
        // SAFETY: the library copies the byte during the call.
        minus_one("rdma_reject", unsafe { rdma_sys::rdma_reject(self.raw.as_ptr(), (&raw const why).cast(), 1) })
    }

    /// Tells the other end that this one goes, if it is connected.
    pub fn disconnect(&self) {
        // SAFETY: the id is alive. It fails where there is no connection (any more), which is what is wanted.
        unsafe { rdma_sys::rdma_disconnect(self.raw.as_ptr()) };
    }

    /// Ends all work that is posted: it completes with an error.
    pub fn fail_queue(&self) {
        if !self.has_queue.load(Ordering::Acquire) {
            return;
        }
        // SAFETY: integers and pointers, for which zero is a value. The queue pair is there; `destroy_queue` is not called meanwhile.
        unsafe {
            let mut attributes: rdma_sys::ibv_qp_attr = std::mem::zeroed();
            attributes.qp_state = rdma_sys::ibv_qp_state::IBV_QPS_ERR;
            let mask = rdma_sys::ibv_qp_attr_mask::IBV_QP_STATE.0 as i32;
            rdma_sys::ibv_modify_qp(self.raw.as_ref().qp, &mut attributes, mask);
        }
    }

    /// Takes the queue pair away: afterwards the device touches no memory for it, whatever became of its work. The caller sees to it
    /// that no other call on this id's queue runs at the same time (a lock).
    pub fn destroy_queue(&self) {
        if self.has_queue.swap(false, Ordering::AcqRel) {
            // SAFETY: the queue pair is there, and taken once.
            unsafe { rdma_sys::rdma_destroy_qp(self.raw.as_ptr()) };
        }
    }

    /// Posts reads from the peer into `memory` (from its byte `at` on), one call for all of them. They are carried out and completed in order.
    ///
    /// # Errors
    /// The queue is full or gone: nothing is posted, or only the first of them (which then complete).
    ///
    /// # Safety
    /// `memory` lives, and nobody else reads or writes the parts, until each read has completed or the queue is destroyed. No
    /// call of `destroy_queue` runs at the same time.
    pub unsafe fn post_reads(
        &self,
        works: &[ReadWork<'_>],
        memory: Option<(&Registration, u64)>,
    ) -> Result<(), CallError> {
        if !self.has_queue.load(Ordering::Acquire) {
            return errno("ibv_post_send", libc::ENOTCONN);
        }
        let (base, key) = memory.map_or((0, 0), |(m, at)| (m.address() + at, m.local_key()));
        let mut entries: Vec<rdma_sys::ibv_sge> = works
            .iter()
            .flat_map(|w| w.parts)
            .map(|p| rdma_sys::ibv_sge { addr: base + p.offset, length: p.bytes, lkey: key })
            .collect();
        let mut requests: Vec<rdma_sys::ibv_send_wr> = Vec::with_capacity(works.len());
        let mut at = 0;
        for work in works {
            // SAFETY: integers, pointers and unions of them, for which zero is a value.
            let mut request: rdma_sys::ibv_send_wr = unsafe { std::mem::zeroed() };
            request.wr_id = work.number;
            request.opcode = rdma_sys::ibv_wr_opcode::IBV_WR_RDMA_READ;
            request.num_sge = work.parts.len() as i32;
            request.sg_list = if work.parts.is_empty() { null_mut() } else { entries[at..].as_mut_ptr() };
            request.send_flags = if work.signalled { rdma_sys::ibv_send_flags::IBV_SEND_SIGNALED.0 } else { 0 };
            request.wr.rdma = rdma_sys::rdma_t { remote_addr: work.remote, rkey: work.key };
            at += work.parts.len();
            requests.push(request);
        }
        let first = requests.as_mut_ptr();
        for i in 1..requests.len() {
            // SAFETY: both are elements of the vector, which no longer grows.
            unsafe { (*first.add(i - 1)).next = first.add(i) };
        }
        if requests.is_empty() {
            return Ok(());
        }
        let mut refused = null_mut();
        // SAFETY: the queue pair is there (caller); requests and entries live through the call, which copies them; the memory lives
        // through the reads (caller).
        errno("ibv_post_send", unsafe { rdma_sys::ibv_post_send(self.raw.as_ref().qp, first, &mut refused) })
    }
}

impl Drop for CmId {
    fn drop(&mut self) {
        self.destroy_queue();
        // SAFETY: the queue pair is gone, no event is left unacknowledged, nobody else has the id. Domain, completion queue and channel
        // follow after it.
        unsafe { rdma_sys::rdma_destroy_id(self.raw.as_ptr()) };
    }
}

fn milliseconds(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis().max(1)).unwrap_or(i32::MAX)
}
