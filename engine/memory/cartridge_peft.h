/* cartridge_peft.h -- a folder as PEFT's CARTRIDGE adapter saves and loads it.
 *
 *   adapter_config.json         peft_type "CARTRIDGE", num_virtual_tokens P, num_frozen_tokens, num_layers L,
 *                               num_attention_heads G (of keys and values), token_dim G*D
 *   adapter_model.safetensors   prompt_embeddings [P, 2L*G*D]: in a row layers in order, keys before values,
 * then heads
 *
 * The same numbers in another order. What PEFT has no place for, the description that ties a cartridge to its
 * model, travels as metadata of the second file, sealed as our own files are: a cartridge that goes out and
 * comes in again is the same file to the last byte. PEFT ignores it, and drops it when it saves. */
#ifndef ENGINE_MEMORY_CARTRIDGE_PEFT_H
#define ENGINE_MEMORY_CARTRIDGE_PEFT_H

#include "engine/memory/import.h"

/* Whether this is such a folder: it has an adapter_config.json. */
bool cartridge_peft_is(const char *path);

/* of: the model that it is said to belong to (cartridge_info_for); NULL: only what cartridge_peft_write wrote
 * can be read, which says so itself. *r: how many numbers had to be rounded. ST_FORMAT, ST_UNSUPPORTED
 * (another adapter type), ST_MISMATCH (shapes are not the model's, or the two files disagree), ST_ARG (of is
 * needed). */
Status cartridge_peft_read(CartridgeData *out, const char *folder, const CartridgeInfo *of, Rounding *r);

/* Writes the folder aside and renames it; it must not be there yet. base_model: as adapter_config.json names
 * it, NULL: not named. ST_UNSUPPORTED: what follows the cartridge would not start where PEFT starts it, at
 * the number of its rows. */
Status cartridge_peft_write(const CartridgeData *c, const char *folder, const char *base_model);

#endif
