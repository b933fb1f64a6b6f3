//! A TCP proxy that breaks connections after a request was forwarded and before its answer is.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub struct LossyProxy {
    address: SocketAddr,
    losing: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl LossyProxy {
    /// Listens on a free port and forwards everything until told otherwise.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let losing = Arc::new(AtomicBool::new(false));
        let (flag, answers) = (losing.clone(), Arc::new(AtomicU64::new(0)));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, target, flag.clone(), answers.clone()));
            }
        });
        LossyProxy { address, losing, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on connections break instead of delivering some of the answers.
    pub fn lose_answers(&self, lose: bool) {
        self.losing.store(lose, Ordering::SeqCst);
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(client: TcpStream, target: SocketAddr, losing: Arc<AtomicBool>, answers: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let replies = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length) = from_server.read(&mut buffer).await {
            // Whatever this piece answers was processed by the server; every seventh is lost.
            let lose = losing.load(Ordering::SeqCst) && answers.fetch_add(1, Ordering::SeqCst) % 7 == 6;
            if length == 0 || lose || to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    // Whichever ends first takes both directions along.
    tokio::select! {
        () = requests => {}
        () = replies => {}
    }
}
