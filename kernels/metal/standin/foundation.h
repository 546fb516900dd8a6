/* What the emulated device needs of foundation.m besides Foundation itself. */
#pragma once
#import <Foundation/Foundation.h>

NSError* standin_error(const char* text, NSInteger code);
