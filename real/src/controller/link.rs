//! The controller's side of one agent: greets it, sends it orders, hands back what it says, and says at once when it is lost.
//!
//! A stream that breaks is opened again without delay. If the same process answers and still has the run, what is unanswered is sent again
//! under the same ids, and nobody notices. Anything else is a lost node: its orders are forgotten, and the agent begins anew when it is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use medes_engine::id::NodeId;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::transport::Secret;
use crate::wire::agent_client::AgentClient;
use crate::wire::seal::{self, Token};
use crate::wire::{Hello, MAX_MESSAGE, Memory, Order, OrderKind, PROTOCOL, Step, StepKind};

/// An agent that says nothing for so long is lost; it says its memory every half second.
const SILENCE: Duration = Duration::from_secs(4);
/// The same when another agent has lost it: between two of its reports, and some more.
const SUSPECTED: Duration = Duration::from_millis(1500);
/// For a connection, and for the greeting.
const CONNECT: Duration = Duration::from_secs(2);
/// For the beginning of a stream: the agent may have to purge an earlier run.
const BEGIN: Duration = Duration::from_secs(20);
/// Between attempts to reach an agent that is not there.
const PAUSE: Duration = Duration::from_millis(250);

/// What a link tells the controller, with the time at which it knew.
#[derive(Debug)]
pub enum Event {
    /// The agent is there, empty; orders for it bear this generation.
    Up {
        /// Counts from 1.
        generation: u32,
        /// What it cannot do.
        trouble: String,
    },
    /// Its transport has lost another agent, or found it again.
    Peer {
        /// Which.
        peer: NodeId,
        /// Why it is lost; empty if it is there again.
        lost: String,
    },
    /// It is lost.
    Lost {
        /// What was seen.
        reason: String,
    },
    /// It cannot be used: another version, node or secret.
    Refused {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// A step of an order.
    Step(Step),
    /// Measured memory, and the last order it had received.
    Memory(Memory, u64),
}

/// What the controller hands to a link.
#[derive(Debug)]
pub struct Send {
    /// Of [`Event::Up`]: an order for a process that is gone is dropped.
    pub generation: u32,
    /// The order.
    pub order: Order,
}

/// Where events go.
pub type Events = mpsc::UnboundedSender<(NodeId, Instant, Event)>;

/// What a link needs.
pub struct Link {
    /// Which node.
    pub node: NodeId,
    /// Where it is.
    pub address: watch::Receiver<String>,
    /// Number of the run.
    pub epoch: u64,
    /// Settings of the run, JSON.
    pub settings: String,
    /// What the cluster shares.
    pub secret: Option<Secret>,
    /// Tokens of the sessions, for the controller's own service.
    pub tokens: seal::Tokens,
    /// Told when another agent cannot reach this one: it is lost sooner then if it is silent.
    pub suspected: Arc<Notify>,
}

enum Broken {
    /// May be there again.
    Gone(String),
    /// Never.
    Refused(String),
    /// The controller has closed the link.
    Closed,
}

struct Session {
    client: AgentClient<Channel>,
    token: Token,
    incarnation: u64,
    trouble: String,
    /// Whether it can read base pages over verbs.
    verbs: Result<(), String>,
}

struct State {
    unanswered: BTreeMap<u64, Order>,
    /// Process that has the run.
    bound: Option<u64>,
    generation: u32,
    /// Whether anything came over the last stream.
    heard: bool,
}

impl Link {
    /// Runs until the controller drops the sender of orders.
    pub async fn drive(self, mut orders: mpsc::UnboundedReceiver<Send>, events: Events) {
        let mut state = State { unanswered: BTreeMap::new(), bound: None, generation: 0, heard: false };
        let tell = |event| {
            // Nobody listens: the run is over, and the orders are closed as well.
            let _ = events.send((self.node, Instant::now(), event));
        };
        loop {
            match self.once(&mut state, &mut orders, &tell).await {
                Broken::Closed => return,
                Broken::Gone(reason) => {
                    if state.bound.take().is_some() {
                        state.unanswered.clear();
                        tell(Event::Lost { reason });
                    }
                }
                Broken::Refused(reason) => {
                    state.bound = None;
                    tell(Event::Refused { address: self.address.borrow().clone(), reason });
                }
            }
            // Orders for a process that is gone are dropped as they come; closing is noticed.
            let pause = tokio::time::sleep(PAUSE);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    order = orders.recv() => if order.is_none() { return },
                }
            }
        }
    }

    /// Greets the agent and works with it until something breaks. A stream that breaks is taken up again here if that is possible.
    async fn once(
        &self,
        state: &mut State,
        orders: &mut mpsc::UnboundedReceiver<Send>,
        tell: &impl Fn(Event),
    ) -> Broken {
        loop {
            let mut session = match self.greet().await {
                Ok(session) => session,
                Err(broken) => return broken,
            };
            let again = state.bound.is_some();
            state.heard = false;
            if state.bound.is_some_and(|bound| bound != session.incarnation) {
                return Broken::Gone("its process was replaced".into());
            }
            let broken = match self.work(state, &mut session, again, orders, tell).await {
                Ok(broken) | Err(broken) => broken,
            };
            match (broken, state.bound) {
                // It was at work: one more try finds out whether it still is. One that was silent has had its try.
                (Broken::Gone(reason), Some(_)) if !again || state.heard => {
                    tracing::warn!("{} does not answer: {reason}", self.node)
                }
                (broken, _) => return broken,
            }
        }
    }

    async fn greet(&self) -> Result<Session, Broken> {
        let address = self.address.borrow().clone();
        if address.is_empty() {
            return Err(Broken::Gone("it has no address yet".into()));
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| Broken::Refused(format!("`{address}` is no address: {e}")))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(3));
        let channel = endpoint
            .connect()
            .await
            .map_err(|e| Broken::Gone(format!("cannot connect to {address}: {}", causes(&e))))?;
        let mut client =
            AgentClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let hello = Hello { version: PROTOCOL, node: self.node.0, epoch: self.epoch, nonce: seal::nonce() };
        let welcome = match tokio::time::timeout(CONNECT, client.hello(hello.clone())).await {
            Ok(Ok(welcome)) => welcome.into_inner(),
            Ok(Err(status)) => return Err(refusal(&status)),
            Err(_) => return Err(Broken::Gone("it does not greet".into())),
        };
        if welcome.version != PROTOCOL {
            return Err(Broken::Refused(format!(
                "it speaks protocol {}, the controller {PROTOCOL}: run the same build of medes on all hosts",
                welcome.version
            )));
        }
        if !seal::knows(self.secret.as_ref(), &hello, &welcome) {
            return Err(Broken::Refused(
                "it does not know the cluster's secret: give the same MEDES_SECRET, or the same secret file, to all"
                    .into(),
            ));
        }
        let token = Token::new(self.secret.as_ref(), &hello, &welcome.nonce, welcome.incarnation);
        self.tokens.add(token.clone());
        let verbs = if welcome.verbs { Ok(()) } else { Err(welcome.no_verbs) };
        Ok(Session { client, token, incarnation: welcome.incarnation, trouble: welcome.trouble, verbs })
    }

    async fn work(
        &self,
        state: &mut State,
        session: &mut Session,
        again: bool,
        orders: &mut mpsc::UnboundedReceiver<Send>,
        tell: &impl Fn(Event),
    ) -> Result<Broken, Broken> {
        let (out, outgoing) = mpsc::unbounded_channel();
        let begin =
            Order { kind: OrderKind::Begin.into(), arguments: self.settings.clone(), again, ..Order::default() };
        let gone = |_| Broken::Gone("the stream closed".into());
        out.send(begin).map_err(gone)?;
        let request = session.token.stamp(Request::new(UnboundedReceiverStream::new(outgoing)));
        let mut said = match tokio::time::timeout(BEGIN, session.client.work(request)).await {
            Ok(Ok(said)) => said.into_inner(),
            Ok(Err(status)) => return Err(refusal(&status)),
            Err(_) => return Err(Broken::Gone("it does not begin".into())),
        };
        if again {
            for order in state.unanswered.values() {
                out.send(order.clone()).map_err(gone)?;
            }
        } else {
            state.bound = Some(session.incarnation);
            state.generation += 1;
            tell(Event::Up { generation: state.generation, trouble: std::mem::take(&mut session.trouble) });
        }
        let mut resumed = again;
        let mut silence = SILENCE;
        loop {
            tokio::select! {
                () = self.suspected.notified() => silence = SUSPECTED,
                next = tokio::time::timeout(silence, said.next()) => {
                    let said = match next {
                        Err(_) => return Ok(Broken::Gone(format!("it said nothing for {} s", silence.as_secs_f64()))),
                        Ok(None) => return Ok(Broken::Gone("it closed the stream".into())),
                        Ok(Some(Err(status))) => return Ok(Broken::Gone(status.message().to_owned())),
                        Ok(Some(Ok(said))) => said,
                    };
                    silence = SILENCE;
                    state.heard = true;
                    if resumed {
                        tracing::info!("{} is at work again", self.node);
                        resumed = false;
                    }
                    if let Some(memory) = said.memory {
                        tell(Event::Memory(memory, said.received));
                    }
                    if let Some(seen) = said.peer {
                        tell(Event::Peer { peer: NodeId(seen.node), lost: seen.lost });
                    }
                    if let Some(step) = said.step {
                        let last = state.unanswered.get(&step.order).is_some_and(|o| ends(o, step.kind()));
                        if last {
                            state.unanswered.remove(&step.order);
                        }
                        tell(Event::Step(step));
                    }
                }
                order = orders.recv() => {
                    let Some(Send { generation, mut order }) = order else {
                        // The run is over: the agent purges what it has, and waits for the next. One that cannot be told purges when
                        // its lease runs out.
                        let end = Order { id: u64::MAX, kind: OrderKind::End.into(), ..Order::default() };
                        if out.send(end).is_ok() {
                            let ended = async {
                                while let Some(Ok(said)) = said.next().await {
                                    if said.step.is_some_and(|s| s.order == u64::MAX) {
                                        return;
                                    }
                                }
                            };
                            let _ = tokio::time::timeout(BEGIN, ended).await;
                        }
                        return Ok(Broken::Closed);
                    };
                    if generation != state.generation {
                        continue;
                    }
                    order.settled = state.unanswered.first_key_value().map_or(order.id, |(id, _)| *id);
                    state.unanswered.insert(order.id, order.clone());
                    out.send(order).map_err(gone)?;
                }
            }
        }
    }
}

/// Asks an agent whether it can read base pages over verbs; nothing if it cannot be asked now.
pub(super) async fn has_verbs(link: &Link) -> Option<Result<(), String>> {
    link.greet().await.ok().map(|session| session.verbs)
}

/// Whether a step is the last of its order.
fn ends(order: &Order, step: StepKind) -> bool {
    match step {
        StepKind::Started | StepKind::Restored => order.arguments.is_empty(),
        _ => true,
    }
}

fn refusal(status: &Status) -> Broken {
    match status.code() {
        Code::FailedPrecondition | Code::Unauthenticated | Code::InvalidArgument | Code::Unimplemented => {
            Broken::Refused(status.message().to_owned())
        }
        _ => Broken::Gone(status.message().to_owned()),
    }
}

/// An error with what is behind it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        text = format!("{text}: {e}");
        next = e.source();
    }
    text
}
