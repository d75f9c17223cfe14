/* cartridge_torch.h -- the cartridge file of the published code (HazyResearch/cartridges), read as data.
 *
 * torch.save of a dictionary of four lists with one tensor a layer, each [1,G,n,D]: trainable_keys,
 * trainable_values, and the rows that never learn, which stand before them: frozen_keys, frozen_values, or
 * under the first name they had, fixed_keys, fixed_values. Keys are rotated as if at positions 0 .. rows. The
 * file says nothing of its model. Lists of frozen rows may be empty, which the published loader itself
 * refuses. */
#ifndef ENGINE_MEMORY_CARTRIDGE_TORCH_H
#define ENGINE_MEMORY_CARTRIDGE_TORCH_H

#include "engine/memory/import.h"
#include "engine/model/torch_file.h"

/* of: the model that it is said to belong to (cartridge_info_for). *r: how many numbers had to be rounded.
 * ST_FORMAT, ST_UNSUPPORTED, ST_MISMATCH: shapes are not the model's. */
Status cartridge_torch_read(CartridgeData *out, const TorchFile *f, const CartridgeInfo *of, Rounding *r);

#endif
