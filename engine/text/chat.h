/* chat.h -- conversations as tokens, by the model family's template.
 *
 * Built in: ChatML (Qwen, SmolLM2, the demo model) and Llama 3. The family is recognised from chat_template and the
 * special tokens of the folder; anything else is an error that names what was found. The student of a cartridge
 * starts at the user turn: no begin-of-text token and no default system turn, because the cartridge's own rows stand
 * where these would be. Nothing here adds them unasked.
 *
 * A turn is  open(role) content close:  ChatML  <|im_start|>role\n content <|im_end|>\n
 *                                       Llama 3 <|start_header_id|>role<|end_header_id|>\n\n content <|eot_id|>
 * Content is tokenised by itself, with the spelling of special tokens taken as plain text; it is not trimmed. The demo
 * model's template puts a blank in front of it, which content that begins with one does not get twice. */
#ifndef ENGINE_TEXT_CHAT_H
#define ENGINE_TEXT_CHAT_H

#include "engine/text/tokenizer.h"

typedef enum Role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT } Role;
typedef struct Message { Role role; Bytes text; } Message;

typedef struct Chat Chat; /* borrows its Tokenizer */
Status chat_open(Chat **out, const char *folder, const Tokenizer *t);
void chat_close(Chat *c);
const char *chat_family(const Chat *c); /* "chatml", "chatml-space" (the demo model's), "llama3" */
const Tokenizer *chat_tokenizer(const Chat *c);

Status chat_open_turn(const Chat *c, Role role, TokenVec *out);
Status chat_content(const Chat *c, Bytes text, TokenVec *out);
Status chat_close_turn(const Chat *c, TokenVec *out); /* end-of-turn token and what follows it */
int32_t chat_end(const Chat *c);                      /* the end-of-turn token; supervised with the answer */
/* Ids that end generation: the end-of-turn token and eos_token_id of generation_config.json (one or a list). */
Status chat_stops(const Chat *c, const int32_t **id, int32_t *n); /* borrowed from c */

/* Whole turns; when `answer` the assistant turn is opened behind them. */
Status chat_messages(const Chat *c, const Message *m, int32_t n, bool answer, TokenVec *out);

/* The tokens of a prefix made from a text: the family's first template token (Llama 3: its begin-of-text token in
 * front), then a system turn with the text. rows 0: the whole turn, closed. rows > 0: exactly the first `rows`
 * tokens of it; ST_ARG gives the number there is when it is shorter. The one place where initialisation, captures,
 * truncation and full context get their tokens; the first token's row is the attention sink. */
Status chat_prefix(const Chat *c, Bytes text, int32_t rows, TokenVec *out);

#endif
