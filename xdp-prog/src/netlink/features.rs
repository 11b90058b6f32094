//! Offloads, by ethtool netlink. The ethtool crate can read features but not set them, so the one
//! message that sets them is written here, over the same connection.

use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolHandle};
use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, ParseableParametrized,
};

use super::NetlinkError;

/// Numbers of `linux/ethtool_netlink.h`.
mod uapi {
    pub(super) const MSG_FEATURES_SET: u8 = 12;
    pub(super) const GENL_VERSION: u8 = 1;
    pub(super) const FEATURES_HEADER: u16 = 1;
    pub(super) const FEATURES_WANTED: u16 = 3;
    pub(super) const HEADER_DEV_INDEX: u16 = 1;
    pub(super) const BITSET_BITS: u16 = 3;
    pub(super) const BITSET_BITS_BIT: u16 = 1;
    pub(super) const BITSET_BIT_NAME: u16 = 2;
}

/// Features that would let an unfinished packet reach the XDP program: a checksum still to be
/// computed, or several packets in one.
fn is_offload(name: &str) -> bool {
    name.starts_with("tx-") && (name.contains("checksum") || name.contains("segmentation"))
}

/// Switches every transmit checksum and segmentation offload off, and checks that it is off.
pub(super) async fn offloads_off(interface: &str, ifindex: u32) -> Result<(), NetlinkError> {
    let (connection, mut handle, _) = ethtool::new_connection().map_err(NetlinkError::Connect)?;
    let task = tokio::spawn(connection);
    let result = switch_off(&mut handle, interface, ifindex).await;
    task.abort();
    result
}

async fn switch_off(
    handle: &mut EthtoolHandle,
    interface: &str,
    ifindex: u32,
) -> Result<(), NetlinkError> {
    let error = |what, reason| NetlinkError::Features {
        what,
        interface: interface.to_owned(),
        reason,
    };
    let wanted_off = active(handle, interface).await?;
    if wanted_off.is_empty() {
        return Ok(());
    }
    let mut message = NetlinkMessage::from(GenlMessage::from_payload(FeaturesSet {
        ifindex,
        off: wanted_off,
    }));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = handle
        .handle
        .request(message)
        .await
        .map_err(|failed| error("switch off offloads", failed.to_string()))?;
    while let Some(answer) = answers.next().await {
        // A reply that we do not read (which bits changed), or the acknowledgement.
        if let Ok(NetlinkMessage {
            payload: NetlinkPayload::Error(refused),
            ..
        }) = answer
            && refused.code.is_some()
        {
            return Err(error("switch off offloads", refused.to_string()));
        }
    }
    match active(handle, interface).await? {
        left if left.is_empty() => Ok(()),
        left => Err(error(
            "switch off offloads",
            format!("still on: {}", left.join(", ")),
        )),
    }
}

/// The offloads that are on.
async fn active(handle: &mut EthtoolHandle, interface: &str) -> Result<Vec<String>, NetlinkError> {
    let error = |failed: ethtool::EthtoolError| NetlinkError::Features {
        what: "read the features",
        interface: interface.to_owned(),
        reason: failed.to_string(),
    };
    let answers = handle
        .feature()
        .get(Some(interface))
        .execute()
        .await
        .map_err(error)?;
    let answers: Vec<_> = answers.try_collect().await.map_err(error)?;
    let mut names: Vec<String> = answers
        .into_iter()
        .flat_map(|answer| answer.payload.nlas)
        .filter_map(|attribute| match attribute {
            EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => Some(bits),
            _ => None,
        })
        .flatten()
        .map(|bit| bit.name)
        .filter(|name| is_offload(name))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// `ETHTOOL_MSG_FEATURES_SET`: these features off, the others as they are.
#[derive(Clone, Debug)]
struct FeaturesSet {
    ifindex: u32,
    off: Vec<String>,
}

impl FeaturesSet {
    fn attributes(&self) -> [DefaultNla; 2] {
        use uapi::{
            BITSET_BIT_NAME, BITSET_BITS, BITSET_BITS_BIT, FEATURES_HEADER, FEATURES_WANTED,
            HEADER_DEV_INDEX,
        };
        let device = DefaultNla::new(HEADER_DEV_INDEX, self.ifindex.to_ne_bytes().to_vec());
        // A bit of the mask without a value is a feature to be off.
        let bits: Vec<DefaultNla> = self
            .off
            .iter()
            .map(|name| {
                let name = [name.as_bytes(), b"\0"].concat();
                nested(BITSET_BITS_BIT, &[DefaultNla::new(BITSET_BIT_NAME, name)])
            })
            .collect();
        [
            nested(FEATURES_HEADER, &[device]),
            nested(FEATURES_WANTED, &[nested(BITSET_BITS, &bits)]),
        ]
    }
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

impl GenlFamily for FeaturesSet {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        uapi::MSG_FEATURES_SET
    }

    fn version(&self) -> u8 {
        uapi::GENL_VERSION
    }
}

impl Emitable for FeaturesSet {
    fn buffer_len(&self) -> usize {
        self.attributes().as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes().as_slice().emit(buffer);
    }
}

/// The reply says which bits changed. Nobody asks: what is on is read afterwards.
impl ParseableParametrized<[u8], GenlHeader> for FeaturesSet {
    fn parse_with_param(_: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self {
            ifindex: 0,
            off: Vec::new(),
        })
    }
}
