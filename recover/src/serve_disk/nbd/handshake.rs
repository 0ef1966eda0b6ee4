//! How a client comes to an export: the protocol's newstyle negotiation.

use std::io::{self, Read, Write};

use super::{Export, MAX_PAYLOAD, array, invalid};
use crate::serve_disk::ServedDisk;

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = 0x8000_0001;
const REP_ERR_INVALID: u32 = 0x8000_0003;
const REP_ERR_UNKNOWN: u32 = 0x8000_0006;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

const HAS_FLAGS: u16 = 1;
const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_FUA: u16 = 1 << 3;
const SEND_TRIM: u16 = 1 << 5;
const SEND_WRITE_ZEROES: u16 = 1 << 6;
const CAN_MULTI_CONN: u16 = 1 << 8;

const MAX_OPTION: u32 = 8192;

/// Negotiates; none when the client only asked, or asked for what is not there.
pub(super) fn negotiate<'a>(
    input: &mut impl Read,
    output: &mut impl Write,
    exports: &'a [Export],
) -> io::Result<Option<&'a Export>> {
    let mut hello = MAGIC.to_be_bytes().to_vec();
    hello.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    hello.extend_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    output.write_all(&hello)?;
    let client = u32::from_be_bytes(array(input)?);
    let no_zeroes = client & u32::from(NO_ZEROES) != 0;
    loop {
        if u64::from_be_bytes(array(input)?) != OPTION_MAGIC {
            return Err(invalid("not an NBD option"));
        }
        let option = u32::from_be_bytes(array(input)?);
        let length = u32::from_be_bytes(array(input)?);
        if length > MAX_OPTION {
            return Err(invalid("an NBD option too long"));
        }
        let mut data = vec![0; length as usize];
        input.read_exact(&mut data)?;
        let mut reply = |kind: u32, payload: &[u8]| {
            let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            bytes.extend_from_slice(&option.to_be_bytes());
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
            bytes.extend_from_slice(payload);
            output.write_all(&bytes)
        };
        match option {
            OPT_EXPORT_NAME => {
                let Some(export) = find(exports, &data) else {
                    // The protocol has no words for this case.
                    return Ok(None);
                };
                let mut bytes = export.disk.size().to_be_bytes().to_vec();
                bytes.extend_from_slice(&flags(&export.disk).to_be_bytes());
                if !no_zeroes {
                    bytes.resize(bytes.len() + 124, 0);
                }
                output.write_all(&bytes)?;
                return Ok(Some(export));
            }
            OPT_ABORT => {
                reply(REP_ACK, &[])?;
                return Ok(None);
            }
            OPT_LIST => {
                for export in exports {
                    let mut entry = (export.name.len() as u32).to_be_bytes().to_vec();
                    entry.extend_from_slice(export.name.as_bytes());
                    reply(REP_SERVER, &entry)?;
                }
                reply(REP_ACK, &[])?;
            }
            OPT_INFO | OPT_GO => match parse_info(&data) {
                None => reply(REP_ERR_INVALID, b"malformed")?,
                Some(name) => match find(exports, name) {
                    None => reply(REP_ERR_UNKNOWN, b"no such export")?,
                    Some(export) => {
                        let mut info = INFO_EXPORT.to_be_bytes().to_vec();
                        info.extend_from_slice(&export.disk.size().to_be_bytes());
                        info.extend_from_slice(&flags(&export.disk).to_be_bytes());
                        reply(REP_INFO, &info)?;
                        let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
                        for size in [1, 4096, MAX_PAYLOAD] {
                            sizes.extend_from_slice(&size.to_be_bytes());
                        }
                        reply(REP_INFO, &sizes)?;
                        reply(REP_ACK, &[])?;
                        if option == OPT_GO {
                            return Ok(Some(export));
                        }
                    }
                },
            },
            _ => reply(REP_ERR_UNSUP, &[])?,
        }
    }
}

/// The name in the data of INFO and GO.
fn parse_info(data: &[u8]) -> Option<&[u8]> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    rest.get(..u32::from_be_bytes(*length) as usize)
}

fn find<'a>(exports: &'a [Export], name: &[u8]) -> Option<&'a Export> {
    if name.is_empty() {
        return exports.first();
    }
    exports.iter().find(|export| export.name.as_bytes() == name)
}

fn flags(disk: &ServedDisk) -> u16 {
    let common = HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN;
    match disk.writable() {
        Some(_) => common | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES,
        None => common | READ_ONLY,
    }
}
