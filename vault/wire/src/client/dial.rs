//! From a vault's address to a connection.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig};
use rustix::net::sockopt;

use super::congestion::CongestionControl;
use super::error::{ClientError, describe};
use super::resolve::Resolver;
use crate::identity::VAULT_NAME;

/// Bytes that a peer may have sent on all streams and that nobody has read.
pub const RECEIVE_WINDOW: u32 = 32 << 20;
/// Bytes sent and not yet acknowledged: what a line of 1 Gbit/s and 150 ms has under way.
const SEND_WINDOW: u64 = 20 << 20;

/// Packets that may overtake one before it counts as lost. Lines of several links and mobile ones
/// reorder more than the 3 that RFC 9002, section 6.1.1, begins with; what is truly lost is found
/// an eighth of a round trip later at most, by time.
const REORDERING: u32 = 128;

/// QUIC settings of both sides: windows for long fat lines, many streams, quick notice of loss.
pub fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(256u32.into())
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window((16u32 << 20).into())
        .receive_window(RECEIVE_WINDOW.into())
        .send_window(SEND_WINDOW)
        .packet_threshold(REORDERING)
        .congestion_controller_factory(Arc::new(CongestionControl))
        .keep_alive_interval(Some(Duration::from_secs(5)));
    if let Ok(idle) = Duration::from_secs(30).try_into() {
        transport.max_idle_timeout(Some(idle));
    }
    let mut mtu = quinn::MtuDiscoveryConfig::default();
    // Jumbo frames where the path carries them; discovery finds out.
    mtu.upper_bound(9000);
    transport.mtu_discovery_config(Some(mtu));
    transport
}

/// What a socket may hold while its process does not run. With the usual 208 KiB a line of
/// 1 Gbit/s loses packets after 2 ms, and each loss makes the sender slower.
const SOCKET_BUFFER: usize = 4 << 20;

/// A socket with room for bursts, as far as the system allows (`net.core.rmem_max`; root may go
/// beyond).
pub fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    // Smaller ones cost speed only. The superuser's programs need not ask the system's limit.
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER);
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
    }
    Ok(socket)
}

pub(super) async fn dial(
    vault: &str,
    tls: rustls::ClientConfig,
) -> Result<(Endpoint, Connection), ClientError> {
    let address_error = |reason: String| ClientError::Address {
        vault: vault.to_string(),
        reason,
    };
    let addresses: Vec<SocketAddr> = Resolver::default()
        .lookup(vault)
        .await
        .map_err(address_error)?;
    let crypto =
        QuicClientConfig::try_from(tls).map_err(|e| ClientError::Credentials(e.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    let mut last = address_error("the name has no address".into());
    for address in addresses {
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let bound = bind(local).and_then(|socket| {
            let runtime = Arc::new(TokioRuntime);
            Endpoint::new(EndpointConfig::default(), None, socket, runtime)
        });
        let endpoint = match bound {
            Ok(endpoint) => endpoint,
            Err(e) => {
                last = address_error(e.to_string());
                continue;
            }
        };
        match endpoint.connect_with(config.clone(), address, VAULT_NAME) {
            Ok(connecting) => match connecting.await {
                Ok(connection) => return Ok((endpoint, connection)),
                Err(e) => last = describe(vault, &e),
            },
            Err(e) => last = address_error(e.to_string()),
        }
    }
    Err(last)
}
