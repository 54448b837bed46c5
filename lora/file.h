/*
 * file.h - names inside a PEFT adapter folder, shared by its reader and writer.
 */
#pragma once

#define PEFT_WEIGHTS "adapter_model.safetensors"
#define PEFT_CONFIG "adapter_config.json"
#define PEFT_PREFIX "base_model.model."
